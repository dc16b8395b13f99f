"""Offline tools on a data directory."""
