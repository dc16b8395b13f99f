"""Bags: few or many short byte strings in sorted order, as small as the case allows.

Most outhashes have one taskhash and most taskhashes one outhash row, while a task that leaves nothing behind
shares its outhash with a hundred thousand others. So a bag is ``bytes`` when it holds one item, a sorted
tuple up to `SMALL` items, and a `BigBag` above. Items begin with a fixed prefix of big-endian numbers that
orders them (the time ``created`` first); behind it stands the *tail*, which is unique in a bag.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from sortedcontainers import SortedList

SMALL = 16
"""Items up to which a bag is a tuple; a BigBag of one item takes about 700 bytes."""


class BigBag:
    """A bag of any size: ordered by a SortedList, found by tail in a dict; each change O(log n)."""

    __slots__ = ("by_tail", "ordered")

    def __init__(self, items: Iterable[bytes], prefix: int) -> None:
        self.ordered = SortedList(items)
        self.by_tail: dict[bytes, bytes] = {item[prefix:]: item for item in self.ordered}

    def put(self, item: bytes, prefix: int) -> None:
        """Add an item, in the place of one with the same tail."""
        self.discard(item[prefix:])
        self.by_tail[item[prefix:]] = item
        self.ordered.add(item)

    def discard(self, tail: bytes) -> None:
        """Drop the item with this tail, if any."""
        old = self.by_tail.pop(tail, None)
        if old is not None:
            self.ordered.remove(old)


Bag: TypeAlias = bytes | tuple[bytes, ...] | BigBag
"""One item, a sorted tuple of 2 to SMALL, or more; an empty bag is None."""


def find(bag: Bag | None, tail: bytes, prefix: int) -> bytes | None:
    """The item with this tail; None when there is none."""
    if isinstance(bag, BigBag):
        return bag.by_tail.get(tail)
    for item in iterate(bag):
        if item[prefix:] == tail:
            return item
    return None


def put(bag: Bag | None, item: bytes, prefix: int) -> Bag:
    """The bag with the item, in the place of one with the same tail. Use the bag that is returned."""
    if bag is None:
        return item
    if isinstance(bag, BigBag):
        bag.put(item, prefix)
        return bag
    tail = item[prefix:]
    items = sorted([*(old for old in iterate(bag) if old[prefix:] != tail), item])
    return _fit(items, prefix)


def discard(bag: Bag | None, tail: bytes, prefix: int) -> Bag | None:
    """The bag without the item of this tail; None when nothing is left. Use the bag that is returned."""
    if isinstance(bag, BigBag):
        bag.discard(tail)
        return bag if len(bag.ordered) > SMALL else _fit(list(bag.ordered), prefix)
    items = [item for item in iterate(bag) if item[prefix:] != tail]
    return _fit(items, prefix) if items else None


def iterate(bag: Bag | None) -> Iterable[bytes]:
    """The items in order. A bag must not change while it is iterated."""
    if bag is None:
        return ()
    if isinstance(bag, bytes):
        return (bag,)
    return bag if isinstance(bag, tuple) else bag.ordered


def after(bag: Bag | None, item: bytes) -> Iterator[bytes]:
    """The items above the given one, in order; O(log n) to start. b"" is below all."""
    if isinstance(bag, BigBag):
        return iter(bag.ordered.irange(item, inclusive=(False, False)))
    items = tuple(iterate(bag))
    return iter(items[bisect_right(items, item) :])


def size(bag: Bag | None) -> int:
    """How many items it holds."""
    if isinstance(bag, BigBag):
        return len(bag.ordered)
    return len(tuple(iterate(bag)))


def _fit(items: list[bytes], prefix: int) -> Bag:
    if len(items) == 1:
        return items[0]
    return tuple(items) if len(items) <= SMALL else BigBag(items, prefix)
