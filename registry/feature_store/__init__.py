"""What is in the feature store, and the filling of its online part: kept as rows, done by a child.

Feast is imported by processes of its own only (`registry/online/`): it is slow and large.
"""
