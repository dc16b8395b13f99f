"""File descriptors: as many as the system allows, with some kept back for what must always work."""

from __future__ import annotations

import resource

RESERVED = 256
"""Kept back from connections: workers and their pipes, the upstream, logs, files, and those being accepted."""


def raise_limit() -> int:
    """Raise this process's limit of open files to the most that it may have; that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
