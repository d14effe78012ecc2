"""Features from Feast's online store, read in a process of its own: Feast is slow and large."""
