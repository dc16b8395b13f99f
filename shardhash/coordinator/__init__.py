"""The coordinator: listeners, transports, sessions, permissions, users. It asks a store, and knows no shards."""
