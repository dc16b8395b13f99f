"""Days on which mappings were last asked for: eight bytes for each that was, whatever its row or mark.

A mapping's place in a Python object would cost fifty bytes, so a day is found by a number of 60 bits that stands for
the mapping, its digest times a constant modulo a prime::

    part    the number's high 12 bits: one of 4096 sorted arrays
    entry   u64: the number's low 48 bits, then the day in 16; bisected by the former

That two mappings have the same number is less likely than a damaged disk; then the later day counts. Days are numbered
from 1970-01-01 UTC.

What is told again and again costs little: a day that is noted already is found and left.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b

from shardhash.base.timestamps import DAY
from shardhash.wire.hashes import Key

_DAY_BITS = 16
_LAST_DAY = (1 << _DAY_BITS) - 1
_ENTRY = 8
_PRIME = (1 << 60) - 93
_SPREAD = 0x9E3779B97F4A7C15
"""Digests that are made up, such as 1, 2, 3, would else share a part."""
_LOW = (1 << 48) - 1


def day_of(microseconds: int) -> int:
    """The number of the day of a time in microseconds since 1970 UTC."""
    return min(max(microseconds // DAY, 0), _LAST_DAY)


class AskedDays:
    """The last day of each mapping of one method that was asked for."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AskedDays) and self._parts == other._parts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def note(self, keys: Iterable[Key], day: int) -> None:
        """These were asked for on this day; 0.6 us each. An earlier day than is noted changes nothing."""
        parts = self._parts
        for key in keys:
            digest = key if isinstance(key, bytes) else _digest(key)
            number = int.from_bytes(digest) * _SPREAD % _PRIME
            part = parts.get(number >> 48)
            if part is None:
                part = parts[number >> 48] = array("Q")
            low = (number & _LOW) << _DAY_BITS
            entry = low | day
            place = bisect_left(part, low)
            if place < len(part) and part[place] >> _DAY_BITS == low >> _DAY_BITS:
                if part[place] < entry:
                    part[place] = entry
            else:
                part.insert(place, entry)

    def day(self, key: Key) -> int:
        """The last day noted for a mapping; 0 for none."""
        number, low = _place(key)
        part = self._parts.get(number)
        if part is None:
            return 0
        place = bisect_left(part, low)
        if place < len(part) and part[place] >> _DAY_BITS == low >> _DAY_BITS:
            return part[place] & _LAST_DAY
        return 0

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what is noted of mappings that are gone."""
        for key in keys:
            number, low = _place(key)
            part = self._parts.get(number)
            if part is None:
                continue
            place = bisect_left(part, low)
            if place < len(part) and part[place] >> _DAY_BITS == low >> _DAY_BITS:
                del part[place]
                if not part:
                    del self._parts[number]

    def numbers(self) -> list[int]:
        """The numbers of the parts that hold anything, in order."""
        return sorted(self._parts)

    def pack(self, number: int) -> bytes:
        """A part as bytes: its entries, eight bytes each, little-endian; none for one that is gone."""
        part = array("Q", self._parts.get(number, ()))
        if sys.byteorder == "big":
            part.byteswap()
        return part.tobytes()

    def unpack(self, number: int, packed: bytes) -> None:
        """The inverse of `pack`. ValueError for what it cannot have written."""
        if not 0 <= number < 1 << 12 or len(packed) % _ENTRY:
            raise ValueError(f"part {number} of the days is malformed")
        part = array("Q")
        part.frombytes(packed)
        if sys.byteorder == "big":
            part.byteswap()
        if not part or list(part) != sorted(set(part)):
            raise ValueError(f"part {number} of the days is out of order")
        self._parts[number] = part


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _place(key: Key) -> tuple[int, int]:
    """The part of a mapping, and its entry without a day."""
    number = int.from_bytes(key if isinstance(key, bytes) else _digest(key)) * _SPREAD % _PRIME
    return number >> 48, (number & _LOW) << _DAY_BITS
