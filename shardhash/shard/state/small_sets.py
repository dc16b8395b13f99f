"""Small sets: short byte strings in sorted order, in as little memory as possible.

Most outhashes have one taskhash and most taskhashes one outhash row, while a task that leaves nothing behind
shares its outhash with a hundred thousand others. So a bag is ``bytes`` when it holds one item, a sorted
tuple up to `SMALL` items, and a `BigBag` above. Items are ordered as bytes; each has a *name*, a part of it that is
unique in a bag, and which the caller's `name_of` takes out of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from sortedcontainers import SortedList

NameOf: TypeAlias = Callable[[bytes], bytes]
"""The name of an item."""

SMALL = 16
"""Items up to which a bag is a tuple; a BigBag of one item takes about 700 bytes."""


class BigBag:
    """A set of any size: ordered by a SortedList, found by name in a dict; each change O(log n)."""

    __slots__ = ("by_name", "ordered")

    def __init__(self, items: Iterable[bytes], name_of: NameOf) -> None:
        self.ordered = SortedList(items)
        self.by_name: dict[bytes, bytes] = {name_of(item): item for item in self.ordered}

    def put(self, item: bytes, name_of: NameOf) -> None:
        """Add an item, in the place of one with the same name."""
        self.discard(name_of(item))
        self.by_name[name_of(item)] = item
        self.ordered.add(item)

    def discard(self, name: bytes) -> None:
        """Drop the item with this name, if any."""
        old = self.by_name.pop(name, None)
        if old is not None:
            self.ordered.remove(old)


Bag: TypeAlias = bytes | tuple[bytes, ...] | BigBag
"""One item, a sorted tuple of 2 to SMALL, or more; an empty bag is None."""


def find(bag: Bag | None, name: bytes, name_of: NameOf) -> bytes | None:
    """The item with this name; None when there is none."""
    if isinstance(bag, BigBag):
        return bag.by_name.get(name)
    for item in iterate(bag):
        if name_of(item) == name:
            return item
    return None


def put(bag: Bag | None, item: bytes, name_of: NameOf) -> Bag:
    """The bag with the item, in the place of one with the same name. Use the bag that is returned."""
    if bag is None:
        return item
    if isinstance(bag, BigBag):
        bag.put(item, name_of)
        return bag
    name = name_of(item)
    items = sorted([*(old for old in iterate(bag) if name_of(old) != name), item])
    return _fit(items, name_of)


def discard(bag: Bag | None, name: bytes, name_of: NameOf) -> Bag | None:
    """The bag without the item of this name; None when nothing is left. Use the bag that is returned."""
    if isinstance(bag, BigBag):
        bag.discard(name)
        return bag if len(bag.ordered) > SMALL else _fit(list(bag.ordered), name_of)
    items = [item for item in iterate(bag) if name_of(item) != name]
    return _fit(items, name_of) if items else None


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


def _fit(items: list[bytes], name_of: NameOf) -> Bag:
    if len(items) == 1:
        return items[0]
    return tuple(items) if len(items) <= SMALL else BigBag(items, name_of)


def put_into(where: dict[Any, Bag], key: object, item: bytes, name_of: NameOf) -> bytes | None:
    """Put an item into the bag under a key; the item whose place it took, None if it is one more."""
    bag = where.get(key)
    if bag is None:
        where[key] = item
        return None
    replaced = find(bag, name_of(item), name_of)
    where[key] = put(bag, item, name_of)
    return replaced


def discard_from(where: dict[Any, Bag], key: object, name: bytes, name_of: NameOf) -> bytes | None:
    """Drop an item from the bag under a key; the item, None when it was not there."""
    bag = where.get(key)
    gone = find(bag, name, name_of)
    if gone is None:
        return None
    left = discard(bag, name, name_of)
    if left is None:
        del where[key]
    else:
        where[key] = left
    return gone
