"""Loads: how many connections each coordinator of a server has, in memory that all of them share.

All accept at the same listening sockets, and the kernel wakes all of them for each connection. Who wins would mostly be
the same: builders connect one after another and stay for hours. So a coordinator that has more connections than another
gives way; if nobody takes what waits within some milliseconds, it accepts all the same, since the other may hang.

Who refuses connections has few of them, and would get all that come again. So those that it refused a moment ago count
as if they were open, and while it has no descriptor nobody gives way to it.
"""

from __future__ import annotations

import mmap
import os

SLACK = 8
"""A part of so many by which a coordinator may have more connections than another, and accept."""
_NOBODY = (1 << 32) - 1
_SIZE = 4


class Loads:
    """The loads as one coordinator, in its place, sees and tells them; for as long as its process lives."""

    def __init__(self, descriptor: int, place: int, coordinators: int) -> None:
        self.descriptor = descriptor
        self._place = place
        self._connections = 0
        self._rests = False
        self._memory = mmap.mmap(descriptor, coordinators * _SIZE)
        self._counts = memoryview(self._memory).cast("I")

    @classmethod
    def create(cls, coordinators: int) -> Loads:
        """Those of a server, for its own coordinator in place 0; others are given the descriptor. Raises OSError."""
        descriptor = os.memfd_create("shardhash-loads")
        os.ftruncate(descriptor, coordinators * _SIZE)
        loads = cls(descriptor, 0, coordinators)
        for place in range(coordinators):
            loads.leave(place)
        return loads

    def tell(self, connections: int) -> None:
        """This coordinator has so many connections."""
        self._connections = connections
        if not self._rests:
            self._counts[self._place] = connections

    def rest(self, *, rests: bool) -> None:
        """Whether this coordinator accepts nothing for a while: nobody gives way to it."""
        self._rests = rests
        self._counts[self._place] = _NOBODY if rests else self._connections

    def leave(self, place: int) -> None:
        """The coordinator in a place accepts nothing."""
        self._counts[place] = _NOBODY

    def fewest(self) -> bool:
        """Whether no other coordinator has fewer connections than this one, but for an eighth: in a rush all accept."""
        fewest = min(self._counts)
        return self._counts[self._place] <= fewest + fewest // SLACK
