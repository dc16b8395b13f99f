"""Turns: reports that share an outhash go one at a time, in the order in which they came. Pure.

A turn belongs to a link: when that drops, its turns and its place in every queue are given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Place: TypeAlias = tuple[str, str]
"""(method, outhash)"""
Grant: TypeAlias = Callable[[], None]


class Turns:
    """The turns of one shard. A holder is named by its link and a number of the link's own."""

    def __init__(self) -> None:
        self._queues: dict[Place, deque[tuple[object, int, Grant]]] = {}
        self._watches: dict[str, set[Place]] = {}

    def take(self, place: Place, link: object, number: int, grant: Grant) -> None:
        """Call `grant` when the turn has come, now if it is free. Asked again, it answers again and keeps its place."""
        for used in self._watches.values():
            used.add(place)
        queue = self._queues.setdefault(place, deque())
        for position, (other, name, _) in enumerate(queue):
            if other is link and name == number:
                queue[position] = (link, number, grant)
                if position == 0:
                    grant()
                return
        queue.append((link, number, grant))
        if len(queue) == 1:
            grant()

    def busy(self, place: Place) -> bool:
        """Whether someone has the turn."""
        return place in self._queues

    def release(self, place: Place, link: object, number: int) -> None:
        """End a turn, or leave the queue; the next in line is granted. Nothing happens to one who has none."""
        queue = self._queues.get(place)
        if queue is None:
            return
        first = queue[0]
        kept = deque(entry for entry in queue if entry[0] is not link or entry[1] != number)
        self._replace(place, kept, first)

    def drop(self, link: object) -> None:
        """Give up all that a link has, and every watch."""
        self._watches.clear()
        for place, queue in list(self._queues.items()):
            self._replace(place, deque(entry for entry in queue if entry[0] is not link), queue[0])

    def watch(self, job: str) -> None:
        """From now on, remember under this name where someone has or takes a turn."""
        self._watches[job] = set(self._queues)

    def unwatch(self, job: str) -> None:
        """End a watch."""
        self._watches.pop(job, None)

    def quiet(self, job: str, place: Place) -> bool:
        """Whether nobody had the turn since the watch began; not if it is lost."""
        return job in self._watches and place not in self._watches[job]

    def __len__(self) -> int:
        return len(self._queues)

    def _replace(self, place: Place, kept: deque[tuple[object, int, Grant]], first: tuple[object, int, Grant]) -> None:
        if not kept:
            del self._queues[place]
            return
        self._queues[place] = kept
        if kept[0] is not first:
            kept[0][2]()
