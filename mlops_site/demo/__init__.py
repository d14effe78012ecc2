"""A believable installation made of rows alone: for pictures, for tests of pages, and for sizes.

Everything follows from a seed and a moment. Nothing here is run, built or served, and nothing of it
belongs into an installation that people work with: `manage.py seed_demo` refuses to.
"""
