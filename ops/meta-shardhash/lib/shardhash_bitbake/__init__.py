"""shardhash inside BitBake: a signature handler with a hash equivalence client of its own. See the layer's README.

Only the standard library, Python 3.9 or later, and no event loop.
"""

BBIMPORTS = ["register"]
"""What BitBake imports when it meets ``addpylib``."""
