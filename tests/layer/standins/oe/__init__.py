"""Stands in for openembedded-core's library."""
