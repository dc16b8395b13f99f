"""Locks: those of outhashes, and the gate, an advisory lock of the whole store.

Changes share the gate, and removals have it alone.

A report decides by what it reads and stores what it decided; a removal in between would be undone. So whatever stores
enters the gate (`ENTER`, shared), and each slice of a removal closes it (`CLOSE`): it waits for the rounds that are
under way, and those that come wait for it. Both last until the end of their transaction. The database serves the locks
in the order in which they were asked for, so that neither starves.

The current GC mark changes behind the closed gate, too: from there on, every new mapping has it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

ENTER: Final = b"select pg_advisory_xact_lock_shared(7563, 1)"
CLOSE: Final = b"select pg_advisory_xact_lock(7563, 1)"

ORDER_CHANGES: Final = b"select pg_advisory_xact_lock(7563, 2)"
"""Taken before a change is numbered (changes.py): numbers grow in the order of commits."""

LOCK_OUTHASHES: Final = b"select pg_advisory_xact_lock(key) from unnest(%b::bigint[]) as key"
"""Takes the locks of outhashes; give their keys in ascending order, so that no two transactions wait for each other."""


def lock_key(method: int, outhash: bytes) -> int:
    """The advisory lock of an outhash. Two that share one wait for each other needlessly, once in 10^18."""
    digest = blake2b(outhash, digest_size=8, key=method.to_bytes(4, "little")).digest()
    return int.from_bytes(digest, "little", signed=True)
