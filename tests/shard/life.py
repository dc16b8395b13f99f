"""The life of a shard in a test: changes that are told, and what must be there after a restart.

`acknowledged` are the records whose sync returned; `pending` those of a group that was under way. A restart must
show all of the former, and of the latter some first part: each record is a report or another change, whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from shardhash.errors import StorageError
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import Shard, begin_shard, open_shard
from shardhash.wire.hashes import to_text

FOLDER = Path("/shard-000")
SEGMENT = 700
"""Bytes of a segment: a few records, so that a short life has many."""


def digest(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 256):064x}"


def text_of(taskhash: str) -> str:
    """The siginfo that a row of this taskhash has, if any."""
    return f"siginfo of {taskhash} " * 20


def table_of(records: Sequence[Record]) -> Table:
    table = Table()
    for record in records:
        table.apply(record)
    return table


class Life:
    """A shard and what was told to it."""

    def __init__(self, fs: FileSystem, folder: Path = FOLDER) -> None:
        self.fs = fs
        self.folder = folder
        self.acknowledged: list[Record] = []
        self.pending: list[Record] = []
        self.said: list[str] = []
        self.shard: Shard | None = None
        self._counter = itertools.count(1)

    def begin(self) -> None:
        begin_shard(self.fs, self.folder)

    def open(self) -> Shard:
        self.shard = open_shard(self.fs, self.folder, segment_size=SEGMENT, keep_snapshots=2, progress=self.said.append)
        return self.shard

    def row(self, siginfo: bool = False) -> Record:
        """A report that was not there before."""
        assert self.shard is not None
        number = next(self._counter)
        taskhash = digest(number)
        reference = self.shard.put_siginfo(text_of(taskhash)) if siginfo else 0
        details = ("owner", "PN", "1.0", "r0", "do_compile")
        return ("row", "method", taskhash, digest(number // 2 + 999), number, *details, reference, taskhash, "")

    def commit(self, records: Sequence[Record]) -> None:
        """One group: append, sync, apply."""
        assert self.shard is not None
        self.pending = list(records)
        try:
            self.shard.append(records)
        except StorageError:
            self.pending = []
            raise
        self.shard.sync()
        for record in records:
            self.shard.table.apply(record)
        self.acknowledged += self.pending
        self.pending = []

    def report(self, count: int = 1, siginfo: bool = False) -> None:
        self.commit([self.row(siginfo) for _ in range(count)])

    def snapshot(self, meanwhile: int = 0) -> None:
        """Write a snapshot, reporting after its first chunks."""
        assert self.shard is not None
        job = self.shard.begin_snapshot()
        try:
            while job.step():
                if meanwhile:
                    meanwhile -= 1
                    self.report()
            while job.seal():
                pass
        except StorageError:
            job.abandon()
            raise

    def check(self) -> None:
        """What the open shard shows is what must be there; what it shows is acknowledged from now on."""
        assert self.shard is not None
        table = self.shard.table
        table.check()
        found = table.digest()
        for count in range(len(self.pending) + 1):
            records = self.acknowledged + self.pending[:count]
            if table_of(records).digest() == found:
                self.acknowledged, self.pending = records, []
                break
        else:
            raise AssertionError(f"{len(self.acknowledged)} records acknowledged, found {table.counts()}: {self.said}")
        for method, part in table.methods.items():
            for taskhash in part.rows:
                for row in table.rows(method, taskhash):
                    expected = text_of(to_text(taskhash)) if row.siginfo else None
                    assert self.shard.get_siginfo(row.siginfo) == expected
