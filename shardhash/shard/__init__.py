"""One shard: its table, report log, snapshots, and the worker process that serves it."""
