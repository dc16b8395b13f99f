"""A shard as a worker uses it, decisions made by a Transaction, against plain dicts, through restarts of every kind.

test_recovery.py writes any records at all; here they are those that reports, removals and collections come to, with
siginfo texts, refused groups, and a client that asks again for what a crash cut short.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardhash.base.entry_kinds import GC_MARK
from shardhash.errors import StorageError
from shardhash.shard.state.table import Table
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.recovery import Shard, begin_shard, open_shard
from shardhash.shard.storage.snapshot_job import SnapshotJob
from shardhash.wire.hashes import to_key
from tests.shard.faulty import FaultyFileSystem, Survives

FOLDER = Path("/shard-000")
METHODS = ["sstate", "other"]
HASHES = [f"{number:064x}" for number in range(4)] + ["short", "käse"]
UNIHASHES = [bytes([number]) * 32 for number in (1, 2, 3)]
DETAILS = ("owner", "PN", None, "r0", "do_compile")


class Plain:
    """The same state, as dicts; each method says in one line what the operation means."""

    def __init__(self) -> None:
        self.mappings: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.rows: dict[tuple[str, str, str], tuple[int, str | None]] = {}
        self.index: dict[tuple[str, str, str], int] = {}
        self.users: dict[str, Any] = {}
        self.mark: str | None = None

    def report(self, method: str, taskhash: str, outhash: str, created: int, unihash: bytes, text: str | None) -> None:
        self.index.setdefault((method, outhash, taskhash), created)
        self.rows.setdefault((method, taskhash, outhash), (created, text))
        self.map(method, taskhash, unihash)

    def map(self, method: str, taskhash: str, unihash: bytes) -> None:
        self.mappings.setdefault((method, taskhash), (unihash, self.mark or ""))

    def unmap(self, method: str, taskhashes: list[str]) -> None:
        for taskhash in taskhashes:
            self.mappings.pop((method, taskhash), None)

    def remove_rows(self, method: str, pairs: list[tuple[str, str]]) -> None:
        for taskhash, outhash in pairs:
            self.rows.pop((method, taskhash, outhash), None)
            self.index.pop((method, outhash, taskhash), None)

    def collect(self, method: str, mark: str, taskhashes: list[str]) -> None:
        self.mark = mark
        for taskhash in taskhashes:
            if (method, taskhash) in self.mappings:
                self.mappings[method, taskhash] = (self.mappings[method, taskhash][0], mark)

    def set_user(self, name: str, value: Any) -> None:
        self.users[name] = value

    def table(self) -> Table:
        table = Table()
        for (method, taskhash, outhash), (created, text) in self.rows.items():
            table.apply(("row", method, taskhash, outhash, created, *DETAILS, int(text is not None), None, ""))
        for (method, taskhash), (unihash, mark) in self.mappings.items():
            table.apply(("map", method, taskhash, unihash.hex(), mark))
        for (method, outhash, taskhash), created in self.index.items():
            table.apply(("idx", method, outhash, taskhash, created))
        for name, value in self.users.items():
            table.apply(("set", "user", name, value))
        table.apply(("set", "config", GC_MARK, self.mark))
        return table


class Decided:
    """The same operations on a shard, by way of a transaction; as service.py does them."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.change = Transaction(shard.table)

    def report(self, method: str, taskhash: str, outhash: str, created: int, unihash: bytes, text: str | None) -> None:
        new = not self.change.has_row(method, to_key(taskhash), to_key(outhash))
        siginfo = self.shard.put_siginfo(text) if new and text is not None else 0
        row = RowFields(method, taskhash, outhash, created, *DETAILS)
        self.change.insert_row(row, siginfo, unihash, indexed=True)

    def map(self, method: str, taskhash: str, unihash: bytes) -> None:
        self.change.insert_mapping(method, taskhash, unihash)

    def unmap(self, method: str, taskhashes: list[str]) -> None:
        self.change.delete_mappings(method, map(to_key, taskhashes))

    def remove_rows(self, method: str, pairs: list[tuple[str, str]]) -> None:
        self.change.delete_rows(method, pairs)
        self.change.delete_index(method, [(outhash, taskhash) for taskhash, outhash in pairs])

    def collect(self, method: str, mark: str, taskhashes: list[str]) -> None:
        self.change.set_entry("config", GC_MARK, mark)
        self.change.set_mark(mark, method, map(to_key, taskhashes))

    def set_user(self, name: str, value: Any) -> None:
        self.change.set_entry("user", name, value)


Operation: TypeAlias = Callable[["Plain | Decided"], None]

methods = st.sampled_from(METHODS)
hashes = st.sampled_from(HASHES)
unihashes = st.sampled_from(UNIHASHES)
some = st.lists(hashes, min_size=1, max_size=3, unique=True)
pairs = st.lists(st.tuples(hashes, hashes), min_size=1, max_size=3, unique=True)
texts = st.none() | st.sampled_from(["", "käse \ud800", "text " * 300])
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda *fields: lambda on: on.report(*fields), methods, hashes, hashes, st.integers(1, 9), unihashes, texts
    ),
    st.builds(lambda *fields: lambda on: on.map(*fields), methods, hashes, unihashes),
    st.builds(lambda *fields: lambda on: on.unmap(*fields), methods, some),
    st.builds(lambda *fields: lambda on: on.remove_rows(*fields), methods, pairs),
    st.builds(lambda *fields: lambda on: on.collect(*fields), methods, st.sampled_from("AB"), some),
    st.builds(lambda *fields: lambda on: on.set_user(*fields), st.sampled_from("uv"), st.just({"a": [1]}) | st.none()),
)


class ShardMachine(RuleBasedStateMachine):
    """Segments of a few records and chunks of one entry, so that much changes while a snapshot is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(snapshot_chunks, "PARTS", 1)

    @initialize(keep=st.integers(1, 3))
    def begin(self, keep: int) -> None:
        self.fs = FaultyFileSystem()
        self.keep = keep
        self.plain = Plain()
        self.job: SnapshotJob | None = None
        begin_shard(self.fs, FOLDER)
        self.fs.root.sync()
        self.shard = self.opened()

    def opened(self) -> Shard:
        self.job = None
        return open_shard(self.fs, FOLDER, segment_size=500, keep_snapshots=self.keep)

    def write(self, group: list[Operation]) -> Transaction:
        """Decide a group and append it; neither durable nor applied yet."""
        decided = Decided(self.shard)
        for operation in group:
            operation(decided)
        if decided.change.records:
            self.shard.append(decided.change.records)
        return decided.change

    @rule(group=st.lists(operations, min_size=1, max_size=4))
    def commit(self, group: list[Operation]) -> None:
        written = self.write(group)
        self.shard.sync()
        for record in written.records:
            self.shard.table.apply(record)
        for operation in group:
            operation(self.plain)

    @rule(group=st.lists(operations, min_size=1, max_size=4))
    def refuse(self, group: list[Operation]) -> None:
        """The disk is full for as long as it takes to ask."""
        records = len(self.decide_only(group))
        self.fs.fail(0, errno.ENOSPC, times=1000, only="write")
        if records:
            with pytest.raises(StorageError):
                self.write(group)
        self.fs.before = lambda _number, _name: None

    def decide_only(self, group: list[Operation]) -> list[Any]:
        """What a group would write, its texts left out."""
        decided = Decided(self.shard)
        decided.shard = _NoTexts()  # type: ignore[assignment]
        for operation in group:
            operation(decided)
        return decided.change.records

    @rule(day=st.integers(1, 9))
    def ask(self, day: int) -> None:
        """Builds asked for everything that there is."""
        for method in self.shard.table.methods.values():
            method.days.note(method.mappings, day)

    @precondition(lambda self: self.job is None)
    @rule()
    def begin_snapshot(self) -> None:
        job = self.shard.begin_snapshot()
        job._chunks = snapshot_chunks.freeze(self.shard.table, 1)  # type: ignore[attr-defined]
        self.job = job

    @precondition(lambda self: self.job is not None)
    @rule(steps=st.integers(1, 12))
    def go_on_with_snapshot(self, steps: int) -> None:
        assert self.job is not None
        if not all(self.job.step() for _ in range(steps)):
            while self.job.seal():
                pass
            self.job = None

    @precondition(lambda self: self.job is not None)
    @rule()
    def abandon_snapshot(self) -> None:
        assert self.job is not None
        self.job.abandon()
        self.job = None

    @rule()
    def stop_and_start(self) -> None:
        self.shard.close()
        self.fs.power_cut("synced", random.Random(0))
        self.shard = self.opened()

    @rule(operation=operations, survives=st.sampled_from(["synced", "all", "part"]), seed=st.integers(0, 99))
    def crash(self, operation: Operation, survives: Survives, seed: int) -> None:
        """Power goes before the group's sync: some first part of its records may be there. Then it is asked again."""
        records = self.write([operation]).records
        self.fs.power_cut(survives, random.Random(seed))
        self.shard = self.opened()
        table = self.plain.table()
        possible = [table.digest()]
        for record in records:
            table.apply(record)
            possible.append(table.digest())
        assert self.shard.table.digest() in possible
        self.commit([operation])

    @invariant()
    def is_as_told(self) -> None:
        if not hasattr(self, "plain"):
            return
        table = self.shard.table
        table.check()
        assert table.digest() == self.plain.table().digest()
        for method in METHODS:
            for taskhash in HASHES:
                known = self.plain.mappings.get((method, taskhash))
                assert table.unihash(method, to_key(taskhash)) == (known[0] if known else None)
        for (method, taskhash, outhash), (_, text) in self.plain.rows.items():
            row = table.row(method, to_key(taskhash), to_key(outhash))
            assert row is not None
            assert self.shard.get_siginfo(row.siginfo) == text

    def teardown(self) -> None:
        self.patch.undo()
        if hasattr(self, "plain"):
            before = deepcopy(self.plain)
            self.fs.power_cut("synced", random.Random(0))
            self.shard = self.opened()
            assert self.shard.table.digest() == before.table().digest()


class _NoTexts:
    """In the place of a shard: takes texts and keeps none."""

    def put_siginfo(self, _text: str) -> int:
        return 1


TestShardMachine = ShardMachine.TestCase
TestShardMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
