"""File descriptors: the limit raised as far as the system allows, some of them reserved."""

from __future__ import annotations

import os
import resource

RESERVED = 256
"""Reserved, not for connections: workers and their pipes, the upstream, logs, files, connections being accepted."""


def fill_standard() -> None:
    """Open those of standard input, output and error that are closed, on nothing.

    Otherwise the next files and sockets of this process get their numbers, and a child that they are passed to has
    something else there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def raise_limit() -> int:
    """Raise this process's limit of open files to the most that it may have; that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """The number of files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
