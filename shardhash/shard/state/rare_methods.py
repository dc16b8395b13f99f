"""Rare methods: those beyond the first few of a table, whose unihashes are known in one place.

Otherwise a question by unihash would look through a hundred thousand methods.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import compress

from shardhash.base.untracked import untracked
from shardhash.shard.state import one_or_many
from shardhash.wire.hashes import Buffer, Key, split_digests


class RareMethods:
    """For each unihash the rare methods, one or more, in which some taskhash has it."""

    __slots__ = ("asked", "by_unihash")

    def __init__(self) -> None:
        self.asked: set[bytes] = untracked(set())
        """Unihashes that were found to exist, and not yet noted (asked_days.py)."""
        self.by_unihash: dict[bytes, str | set[str]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_unihash)

    def held(self, digests: Buffer) -> bytes:
        """For each unihash (n * 32 bytes) a byte: 1 when a rare method has it; 60 ns each. It was asked for."""
        keys = list(split_digests(digests))
        held = bytes(map(self.by_unihash.__contains__, keys))
        self.asked.update(compress(keys, held))
        return held

    def methods(self, unihash: Key) -> Collection[str]:
        """The rare methods that have a unihash; none for a text."""
        names = self.by_unihash.get(unihash, ()) if isinstance(unihash, bytes) else ()
        return (names,) if isinstance(names, str) else names

    def add(self, unihash: bytes, method: str) -> None:
        """A taskhash of this method has the unihash."""
        one_or_many.add(self.by_unihash, unihash, method)

    def discard(self, unihash: bytes, method: str) -> None:
        """No taskhash of this method has the unihash any more. KeyError if none had it."""
        one_or_many.discard(self.by_unihash, unihash, method)
