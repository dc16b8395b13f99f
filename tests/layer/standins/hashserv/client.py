"""Empty: BitBake imports it by this name."""
