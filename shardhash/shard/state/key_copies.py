"""Copies of the keys of dicts that go on changing, made and given up a slice at a time.

A walk over a table takes a while, and a dict that grows cannot be walked over: a walk goes over a copy of its keys. To
copy a million takes 30 ms, and 20 to free them. So a walk copies some, and stops for others:

1. Until it has all, the table must not change. Lookups do not change it; the writer (worker/writer.py), who does, waits
   while a copy is `under_way`, some 30 ms for a million keys.
2. A walk that takes too long to come back is not waited for (`give_up`): it begins anew, and after the second time
   copies all in one go.

Who drives a walk does not rest while a copy is under way.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from itertools import chain, islice
from typing import TypeVar

from shardhash.base.letting_go import let_go
from shardhash.base.untracked import untracked
from shardhash.wire.hashes import Key

COPIED = 4_000
"""Keys copied between one stop and the next, 0.1 ms, or 2 of keys that nobody looked at for long; more where there
would be more than `STOPS`."""
STOPS = 400
"""Ticks of the event loop that a copy takes at most, each of which may do much else: writes wait meanwhile."""
TRIES = 2
"""How often a copy is made in slices."""
_T = TypeVar("_T")


class Keys:
    """Keys in their order, to be gone through once."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[list[Key]]) -> None:
        self._parts = parts
        parts.reverse()

    def slices(self, size: int) -> Iterator[list[Key]]:
        """So many at a time. What was gone through is freed, and the rest if the walk ends before."""
        parts = self._parts
        try:
            while parts:
                part = parts.pop()
                for start in range(0, len(part), size):
                    yield part[start : start + size]
        finally:
            let_go(*parts)


class Copies:
    """The copies under way in a table."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: set[object] = set()

    @property
    def under_way(self) -> bool:
        """Whether the dicts of the table must not change."""
        return bool(self._running)

    def give_up(self) -> None:
        """The table changes: the copies under way are of no use any more."""
        self._running.clear()

    def make(self, nothing: _T, *where: Collection[Key]) -> Generator[_T, None, Keys]:
        """The keys of some dicts or sets, all as they are at one time; yields `nothing` where it stops."""
        total = sum(map(len, where))
        if total <= COPIED:
            return Keys([list(chain(*where))])
        size = max(COPIED, total // STOPS)
        for _ in range(TRIES):
            turn = object()
            self._running.add(turn)
            parts: list[list[Key]] = []
            keys = chain(*where)
            try:
                while part := list(islice(keys, size)):
                    parts.append(untracked(part))
                    yield nothing
                    if turn not in self._running:
                        break
                else:
                    return Keys(parts)
            finally:
                self._running.discard(turn)
            let_go(*parts)
        keys = chain(*where)
        return Keys(list(iter(lambda: untracked(list(islice(keys, COPIED))), [])))
