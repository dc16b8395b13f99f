"""The taskhashes with which each task was last reported, by recipe and name: what a build guesses from.

It is made when it is first asked for and kept from then on, so a server that nobody asks for guesses pays nothing. A
task takes 190 bytes with one taskhash and 310 with four: 6 MB for the 20,000 tasks of a world build with four machines,
on each shard, and at most 31 MB. What is removed makes room for others. Only a hash of the names is kept: two tasks
that share one share their guesses, which costs a wrong guess and no more.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from shardhash.shard.state import packing, small_sets
from shardhash.shard.state.details import Details
from shardhash.shard.state.key_copies import Keys
from shardhash.wire.hashes import DIGEST_SIZE, Key
from shardhash.wire.search import MOST_VARIANTS

if TYPE_CHECKING:
    from shardhash.shard.state.table import Table

MOST_TASKS = 100_000
"""Tasks of a method that are kept; those that come later are not."""
SLICE = 100
"""Taskhashes looked at between one yield and the next: 0.1 ms, or 1 of those that nobody looked at for long."""
MOST_ROWS = 16
"""Rows of a taskhash that are looked at, the newest."""
_TIME = 8
_ITEM = _TIME + DIGEST_SIZE


class RecentTasks:
    """For each (PN, task) the newest taskhashes, each with the time of its row in microseconds since 1970."""

    __slots__ = ("_items", "complete", "walk")

    def __init__(self, table: Table, method: str) -> None:
        self._items: dict[int, bytes] = {}
        self.walk = self._fill(table, method)
        """Adds the rows that were there before, a slice at each step; new ones are added by `note` meanwhile."""
        self.complete = False
        """Whether all rows are in here."""

    def note(self, taskhash: Key, created: int, details: Details) -> None:
        """There is this row; about 1 us."""
        recipe, task = details[1], details[4]
        if recipe is None or task is None or not isinstance(taskhash, bytes):
            return
        name, item = hash((recipe, task)), created.to_bytes(_TIME) + taskhash
        old = self._items.get(name)
        if old is None:
            if len(self._items) < MOST_TASKS:
                self._items[name] = item
        elif not (old[:_TIME] <= item[:_TIME] and len(old) == _ITEM and old[_TIME:] == taskhash):
            self._items[name] = _insert(old, item)
        else:
            self._items[name] = item

    def forget(self, taskhash: Key, details: Details) -> None:
        """The last row of a taskhash with these details is gone."""
        name = hash((details[1], details[4]))
        old = self._items.get(name)
        if old is None or not isinstance(taskhash, bytes):
            return
        left = [item for item in _split(old) if item[_TIME:] != taskhash]
        if left:
            self._items[name] = b"".join(left)
        else:
            del self._items[name]

    def find(self, recipe: str, task: str) -> list[tuple[int, bytes]]:
        """(created, taskhash), newest first."""
        packed = self._items.get(hash((recipe, task)), b"")
        return [(int.from_bytes(item[:_TIME]), item[_TIME:]) for item in _split(packed)]

    def _fill(self, table: Table, method: str) -> Generator[None, None, None]:
        part = table.methods.get(method)
        keys = Keys([]) if part is None else (yield from table.copies.make(None, part.rows))
        for some in keys.slices(SLICE):
            for key in some:
                # Of many rows with different outhashes the newest do: they are of one task.
                for item in small_sets.newest(part.rows.get(key) if part is not None else None, MOST_ROWS):
                    created, number, _, _ = packing.unpack_row(item)
                    self.note(key, created, table.details.by_number[number])
            yield
        self.complete = True


def _split(packed: bytes) -> list[bytes]:
    return [packed[at : at + _ITEM] for at in range(0, len(packed), _ITEM)]


def _insert(packed: bytes, item: bytes) -> bytes:
    """The newest of these and one more, each taskhash once."""
    newest: dict[bytes, bytes] = {}
    for one in sorted([*_split(packed), item]):
        newest.pop(one[_TIME:], None)
        newest[one[_TIME:]] = one
    return b"".join(list(newest.values())[: -MOST_VARIANTS - 1 : -1])
