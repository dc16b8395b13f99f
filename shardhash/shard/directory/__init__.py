"""The data directory: its manifest, its lock, and its division into shards."""
