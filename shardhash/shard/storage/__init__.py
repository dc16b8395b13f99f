"""What a shard keeps on disk: report log, snapshots, outhash_siginfo texts, and recovery from them."""
