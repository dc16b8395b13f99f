"""What a shard knows: its table, the records that change it, and how entries are selected. Pure."""
