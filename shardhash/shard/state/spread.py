"""A dict and a set of keys that may be millions, spread over parts that grow by themselves.

A dict that grows makes its table anew at times, which takes 30 ms with a million keys; each of these parts has a 256th
of them. It takes twice as long to ask, so that what lookups read is not spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from shardhash.base.untracked import untracked
from shardhash.wire.hashes import Key

_V = TypeVar("_V")
_SHIFT, _LAST = 40, 255
"""Which bits of a key's hash tell its part: others than those by which a part of thousands finds it."""


class SpreadDict(Generic[_V]):
    """What there is to a dict of keys, as far as it is used. In no order."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: dict[int, dict[Key, _V]] = {}
        """None of them is empty."""

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpreadDict) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self.parts.values())

    def __contains__(self, key: Key) -> bool:
        part = self.parts.get(hash(key) >> _SHIFT & _LAST)
        return part is not None and key in part

    def __getitem__(self, key: Key) -> _V:
        return self.parts[hash(key) >> _SHIFT & _LAST][key]

    def __setitem__(self, key: Key, value: _V) -> None:
        number = hash(key) >> _SHIFT & _LAST
        part = self.parts.get(number)
        if part is None:
            part = self.parts[number] = {}
        part[key] = value

    def get(self, key: Key, default: _V) -> _V:
        """The value of a key."""
        part = self.parts.get(hash(key) >> _SHIFT & _LAST)
        return default if part is None else part.get(key, default)

    def pop(self, key: Key, default: _V) -> _V:
        """The value of a key, which goes."""
        number = hash(key) >> _SHIFT & _LAST
        part = self.parts.get(number)
        if part is None:
            return default
        value = part.pop(key, default)
        if not part:
            del self.parts[number]
        return value

    def values(self) -> Iterator[_V]:
        """The values."""
        return chain.from_iterable(part.values() for part in self.parts.values())


class SpreadSet:
    """What there is to a set of keys, as far as it is used."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: dict[int, set[Key]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __contains__(self, key: Key) -> bool:
        part = self.parts.get(hash(key) >> _SHIFT & _LAST)
        return part is not None and key in part

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self.parts.values())

    def add(self, key: Key) -> None:
        """Add a key."""
        number = hash(key) >> _SHIFT & _LAST
        part = self.parts.get(number)
        if part is None:
            part = self.parts[number] = untracked(set())
        part.add(key)

    def update(self, keys: Iterable[Key]) -> None:
        """Add keys; 0.2 us each."""
        for key in keys:
            self.add(key)
