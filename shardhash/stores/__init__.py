"""Stores: what keeps mappings, outhash rows and users. `interface.Store` is what the layers above may assume."""
