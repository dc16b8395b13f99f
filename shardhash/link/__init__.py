"""The link between coordinator and worker: its operations, and the coordinator's end."""
