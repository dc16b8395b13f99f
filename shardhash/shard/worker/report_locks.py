"""Report locks: reports that share an outhash go one at a time, in the order in which they came. Pure.

A lock belongs to a link: when that drops, its locks and its place in every queue are given up. Those of a follower
(followers.py) belong to its number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

Place: TypeAlias = tuple[str, str]
"""(method, outhash)"""
Grant: TypeAlias = Callable[[], None]
_Queue: TypeAlias = OrderedDict[tuple[object, int], Grant]
"""The holder of the lock, and behind it who waits. Joining and leaving take constant time."""


class ReportLocks:
    """The locks of one shard. A holder is named by its link and a number of the link's own."""

    def __init__(self) -> None:
        self._queues: dict[Place, _Queue] = {}
        self._watches: dict[str, set[Place]] = {}

    def take(self, place: Place, link: object, number: int, grant: Grant) -> None:
        """Call `grant` once the lock is held, now if it is free. Asked again, it grants again and keeps its place."""
        for used in self._watches.values():
            used.add(place)
        holder = (link, number)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = OrderedDict()
        queue[holder] = grant
        if next(iter(queue)) == holder:
            grant()

    def busy(self, place: Place) -> bool:
        """Whether someone holds the lock."""
        return place in self._queues

    def waiting(self, place: Place) -> int:
        """How many wait for the lock, besides its holder."""
        return max(len(self._queues.get(place, ())) - 1, 0)

    def release(self, place: Place, link: object, number: int) -> None:
        """Release a lock, or leave the queue; the next in line is granted. Nothing happens to one who has none."""
        queue = self._queues.get(place)
        if queue is None:
            return
        self._leave(place, queue, [(link, number)])

    def drop(self, link: object) -> None:
        """Release all that a link holds or waits for."""
        for place, queue in list(self._queues.items()):
            self._leave(place, queue, [holder for holder in queue if holder[0] == link])

    def watch(self, job: str) -> set[Place]:
        """A set that from now on gets each place whose lock someone has or takes, until `unwatch`."""
        used = self._watches[job] = set(self._queues)
        return used

    def unwatch(self, job: str) -> None:
        """End a watch."""
        self._watches.pop(job, None)

    def unwatch_all(self) -> None:
        """End every watch."""
        self._watches.clear()

    def __len__(self) -> int:
        return len(self._queues)

    def _leave(self, place: Place, queue: _Queue, holders: list[tuple[object, int]]) -> None:
        first = next(iter(queue))
        for holder in holders:
            queue.pop(holder, None)
        if not queue:
            del self._queues[place]
        elif (following := next(iter(queue))) is not first:
            queue[following]()
