"""Journals: records that are appended at one end and taken at the other, in files (files.py) or in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from shardhash.shard.storage.log import HEAD_SIZE

OVERHEAD = HEAD_SIZE
"""Bytes that a record takes beside its payload."""


class Place(NamedTuple):
    """A byte of a segment where a record begins, or may begin."""

    segment: int
    offset: int


class Item(NamedTuple):
    """A record; `time` in microseconds since 1970 UTC, `after` is the place behind it."""

    number: int
    time: int
    payload: bytes
    after: Place


class Journal(Protocol):
    """Its methods wait for the disk. `append` and `sync` may run beside all others, but not beside each other."""

    durable: bool
    """Whether it is there at the next start."""
    note: Any
    """A JSON value that `save` keeps."""

    @property
    def count(self) -> int:
        """Records that are not taken."""

    @property
    def size(self) -> int:
        """Their bytes."""

    def append(self, payloads: Sequence[bytes], time: int, *, sync: bool) -> None:
        """Add records, all or none, durably if `sync`. StorageError when the disk refuses."""

    def sync(self) -> None:
        """Make all that was added durable. StorageError when the disk refuses."""

    def read(self, after: Place | None, records: int, size: int) -> list[Item]:
        """The next records behind a place, or the first that are not taken: about `size` bytes of them, or one."""

    def take(self, item: Item) -> None:
        """This record, which `read` gave, and all before it are taken."""

    def save(self) -> None:
        """Keep how far it is taken. OSError when the disk refuses."""

    def close(self) -> None:
        """Nothing is asked any more."""


class MemoryJournal:
    """A journal that is lost at the end."""

    durable = False
    note: Any = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._next = 1
        self.size = 0

    @property
    def count(self) -> int:
        """See Journal."""
        return len(self._items)

    def append(self, payloads: Sequence[bytes], time: int, *, sync: bool) -> None:  # noqa: ARG002  # there is no disk
        """See Journal."""
        with self._lock:
            for payload in payloads:
                self.size += len(payload) + OVERHEAD
                self._items.append(Item(self._next, time, payload, Place(0, self._next + 1)))
                self._next += 1

    def sync(self) -> None:
        """Nothing is durable."""

    def read(self, after: Place | None, records: int, size: int) -> list[Item]:
        """See Journal."""
        with self._lock:
            return self._read(after, records, size)

    def _read(self, after: Place | None, records: int, size: int) -> list[Item]:
        if not self._items:
            return []
        skipped = 0 if after is None else max(0, after.offset - self._items[0].number)
        found: list[Item] = []
        for item in islice(self._items, skipped, skipped + records):
            size -= len(item.payload)
            if found and size < 0:
                break
            found.append(item)
        return found

    def take(self, item: Item) -> None:
        """See Journal."""
        with self._lock:
            while self._items and self._items[0].number <= item.number:
                self.size -= len(self._items.popleft().payload) + OVERHEAD

    def save(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""
