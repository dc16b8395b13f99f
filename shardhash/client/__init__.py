"""Clients of a hash equivalence server."""
