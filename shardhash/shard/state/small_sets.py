"""Small sets: short byte strings in sorted order, in as little memory as possible.

Most outhashes have one taskhash and most taskhashes one outhash row, while a task that leaves nothing behind
shares its outhash with a hundred thousand others. So a small set is ``bytes`` when it holds one item, a sorted
tuple up to `SMALL` items, and a `LargeSet` above. Items are ordered as bytes; each has a *name*, a part of it that is
unique in a small set, and which the caller's `name_of` takes out of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from sortedcontainers import SortedList

NameOf: TypeAlias = Callable[[bytes], bytes]
"""The name of an item."""

SMALL = 16
"""Items up to which a small set is a tuple; a LargeSet of one item takes about 700 bytes."""


class LargeSet:
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


SmallSet: TypeAlias = bytes | tuple[bytes, ...] | LargeSet
"""One item, a sorted tuple of 2 to SMALL, or more; an empty small set is None."""


def find(small_set: SmallSet | None, name: bytes, name_of: NameOf) -> bytes | None:
    """The item with this name; None when there is none."""
    if isinstance(small_set, LargeSet):
        return small_set.by_name.get(name)
    for item in iterate(small_set):
        if name_of(item) == name:
            return item
    return None


def put(small_set: SmallSet | None, item: bytes, name_of: NameOf) -> SmallSet:
    """The small set with the item, in the place of one with the same name. Use the small set that is returned."""
    if small_set is None:
        return item
    if isinstance(small_set, LargeSet):
        small_set.put(item, name_of)
        return small_set
    name = name_of(item)
    items = sorted([*(old for old in iterate(small_set) if name_of(old) != name), item])
    return _fit(items, name_of)


def discard(small_set: SmallSet | None, name: bytes, name_of: NameOf) -> SmallSet | None:
    """The small set without the item of this name; None when nothing is left. Use the small set that is returned."""
    if isinstance(small_set, LargeSet):
        small_set.discard(name)
        return small_set if len(small_set.ordered) > SMALL else _fit(list(small_set.ordered), name_of)
    items = [item for item in iterate(small_set) if name_of(item) != name]
    return _fit(items, name_of) if items else None


def iterate(small_set: SmallSet | None) -> Sequence[bytes]:
    """The items in order. A small set must not change while it is iterated."""
    if small_set is None:
        return ()
    if isinstance(small_set, bytes):
        return (small_set,)
    return small_set if isinstance(small_set, tuple) else small_set.ordered


def newest(small_set: SmallSet | None, most: int) -> list[bytes]:
    """The highest items, so many at most, in order."""
    return list(iterate(small_set)[-most:])


def after(small_set: SmallSet | None, item: bytes) -> Iterator[bytes]:
    """The items above the given one, in order; O(log n) to start. b"" is below all."""
    if isinstance(small_set, LargeSet):
        return iter(small_set.ordered.irange(item, inclusive=(False, False)))
    items = tuple(iterate(small_set))
    return iter(items[bisect_right(items, item) :])


def size(small_set: SmallSet | None) -> int:
    """How many items it holds."""
    if isinstance(small_set, LargeSet):
        return len(small_set.ordered)
    return len(tuple(iterate(small_set)))


def _fit(items: list[bytes], name_of: NameOf) -> SmallSet:
    if len(items) == 1:
        return items[0]
    return tuple(items) if len(items) <= SMALL else LargeSet(items, name_of)


def put_into(where: dict[Any, SmallSet], key: object, item: bytes, name_of: NameOf) -> bytes | None:
    """Put an item into the small set under a key; the item whose place it took, None if it is one more."""
    small_set = where.get(key)
    if small_set is None:
        where[key] = item
        return None
    replaced = find(small_set, name_of(item), name_of)
    where[key] = put(small_set, item, name_of)
    return replaced


def discard_from(where: dict[Any, SmallSet], key: object, name: bytes, name_of: NameOf) -> bytes | None:
    """Drop an item from the small set under a key; the item, None when it was not there."""
    small_set = where.get(key)
    gone = find(small_set, name, name_of)
    if gone is None:
        return None
    left = discard(small_set, name, name_of)
    if left is None:
        del where[key]
    else:
        where[key] = left
    return gone
