"""The worker process: one shard, served to the coordinator over the link."""
