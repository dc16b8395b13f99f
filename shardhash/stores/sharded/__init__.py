"""The store over worker processes."""
