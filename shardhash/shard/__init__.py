"""One shard: its state, its storage, the data directory it lives in, and the worker process that serves it."""
