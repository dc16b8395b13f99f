"""shardhash: a hash equivalence server for OpenEmbedded builds."""

__version__ = "0.1.0"
