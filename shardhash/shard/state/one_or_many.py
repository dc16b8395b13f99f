"""One or many: dicts from a key to one value, or to a set of several, since most keys have just one.

Values are bytes or texts; tens of thousands may share a key.
"""

from __future__ import annotations

from typing import TypeVar

from shardhash.base.untracked import untracked

_K = TypeVar("_K", bytes, str)
_V = TypeVar("_V", bound=bytes | str)


def add(many: dict[_K, _V | set[_V]], key: _K, value: _V) -> None:
    """Add a value of a key."""
    there = many.get(key)
    if there is None:
        many[key] = value
    elif isinstance(there, set):
        there.add(value)
    elif there != value:
        many[key] = untracked({there, value})


def discard(many: dict[_K, _V | set[_V]], key: _K, value: _V) -> None:
    """Drop a value of a key. KeyError if the key has none."""
    there = many[key]
    if not isinstance(there, set):
        del many[key]
        return
    there.discard(value)
    if len(there) == 1:
        many[key] = there.pop()
