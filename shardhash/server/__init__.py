"""`shardhash serve`: settings, the worker processes and their supervision, and the assembly of a server."""
