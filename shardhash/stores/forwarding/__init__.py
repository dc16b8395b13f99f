"""Forwarding: what clients reported here is sent on to the upstream."""
