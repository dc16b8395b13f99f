"""A shard against a list of records, with restarts, crashes and snapshots at any moment."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shardhash.errors import DamageError
from shardhash.shard.storage import snapshot, snapshot_chunks
from shardhash.shard.storage.layout import list_shard, snapshot_path
from shardhash.shard.storage.recovery import now, open_shard, recover
from shardhash.shard.storage.snapshot_job import SnapshotJob
from tests.shard.faulty import FaultyFileSystem, Survives
from tests.shard.life import FOLDER, SEGMENT, Life, digest, table_of, text_of

hashes = st.sampled_from([digest(number) for number in range(5)] + ["short", "käse"])
unihashes = st.sampled_from([digest(number) for number in range(7, 10)])
marks = st.sampled_from(["", "A", "B"])
pairs = st.lists(st.tuples(hashes, hashes).map(list), max_size=3)
details = st.tuples(*[st.sampled_from([None, "x"])] * 5)
records = st.one_of(
    st.builds(
        lambda t, o, c, d, u, m: ("row", "m", t, o, c, *d, 0, u, m),
        hashes,
        hashes,
        st.integers(0, 3),
        details,
        st.none() | unihashes,
        marks,
    ),
    st.builds(lambda t, u, m: ("map", "m", t, u, m), hashes, unihashes, marks),
    st.builds(lambda some: ("unmap", "m", some), st.lists(hashes, max_size=3)),
    st.builds(lambda some: ("unrow", "m", some), pairs),
    st.builds(lambda mark, some: ("mark", mark, "m", some), marks, st.lists(hashes, max_size=3)),
    st.builds(lambda o, t, c: ("idx", "n", o, t, c), hashes, hashes, st.integers(0, 3)),
    st.builds(lambda some: ("unidx", "n", some), pairs),
    st.builds(lambda name, value: ("set", "user", name, value), st.sampled_from("ab"), st.none() | st.just({"p": [1]})),
)


class ShardMachine(RuleBasedStateMachine):
    """Chunks of one entry, so that a snapshot is under way while much changes."""

    @initialize()
    def begin(self) -> None:
        self.fs = FaultyFileSystem()
        self.life = Life(self.fs)
        self.life.begin()
        self.fs.root.sync()
        self.life.open()
        self.job: Any = None
        self.texts = 0

    @rule(group=st.lists(records, min_size=1, max_size=6))
    def commit(self, group: list[Any]) -> None:
        self.life.commit(group)

    @rule()
    def report_with_siginfo(self) -> None:
        self.life.report(siginfo=True)

    @rule()
    def begin_snapshot(self) -> None:
        assert self.life.shard is not None
        if self.job is None:
            self.job = self.life.shard.begin_snapshot()
            self.job._chunks = snapshot_chunks.freeze(self.life.shard.table, 1)

    @rule(steps=st.integers(1, 4))
    def go_on_with_snapshot(self, steps: int) -> None:
        job: SnapshotJob | None = self.job
        for _ in range(steps):
            if job is not None and not job.step():
                while job.seal():
                    pass
                self.job = job = None

    @rule()
    def stop_and_start(self) -> None:
        assert self.life.shard is not None
        self.life.shard.close()
        self.restart()

    @rule(survives=st.sampled_from(["synced", "all", "part"]), seed=st.integers(0, 9))
    def crash(self, survives: Survives, seed: int) -> None:
        self.fs.power_cut(survives, random.Random(seed))
        self.restart()

    def restart(self) -> None:
        self.job = None
        self.life.open()
        self.life.check()

    @invariant()
    def is_as_told(self) -> None:
        if hasattr(self, "life"):
            assert self.life.shard is not None
            assert self.life.shard.table.digest() == table_of(self.life.acknowledged).digest()

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.restart()


TestShard = ShardMachine.TestCase
TestShard.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_until_restores_an_earlier_time() -> None:
    """Every earlier state is there, as long as snapshots and segments that old are kept."""
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    life.open()
    states = []
    for number in range(5):
        life.report(2)
        assert life.shard is not None
        states.append((life.shard.table.digest(), now()))
        if number in (0, 1, 3):
            life.snapshot()
    with pytest.raises(DamageError, match="no older snapshot is kept"):
        recover(fs, FOLDER, until=states[1][1])
    for state, time in states[2:]:
        assert recover(fs, FOLDER, until=time).table.digest() == state


def test_siginfo_files_go_when_nothing_refers_to_them() -> None:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    for _ in range(4):
        life.open()
        life.report(siginfo=True)
    assert len(list_shard(fs, FOLDER).siginfos) == 4
    rows = [record for record in life.acknowledged if record[0] == "row"]
    life.commit([("unrow", "method", [list(record[2:4]) for record in rows[:3]])])
    for _ in range(3):
        life.snapshot()
    assert list_shard(fs, FOLDER).siginfos == [4]
    shard = life.open()
    assert shard.get_siginfo(rows[3][10]) == text_of(rows[3][2])


def test_the_set_number_of_snapshots_is_kept_with_what_they_need() -> None:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    life.open()
    for _ in range(5):
        life.report(2)
        life.snapshot()
    listing = list_shard(fs, FOLDER)
    assert len(listing.snapshots) == 2
    assert listing.segments[0] == listing.snapshots[0]
    heads = [snapshot.read_head(fs, snapshot_path(FOLDER, number)) for number in listing.snapshots]
    assert [head.segment for head in heads] == listing.snapshots


def test_a_row_whose_mapping_comes_during_a_snapshot_is_in_it() -> None:
    """It is among those without a mapping when the walk begins, and no longer when the walk gets to them."""
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    shard = life.open()
    life.report()
    life.commit([("row", "method", digest(50), digest(51), 1, *[None] * 5, 0, None, "")])
    job: Any = shard.begin_snapshot()
    job._chunks = snapshot_chunks.freeze(shard.table, 1)
    assert job.step()
    life.commit([("map", "method", digest(50), digest(50), "")])
    while job.step():
        pass
    while job.seal():
        pass
    life.open()
    life.check()


def test_a_snapshot_that_nobody_went_on_with_is_dropped() -> None:
    """The group in which it was begun may be refused, and whoever asked for it never hears of it."""
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    shard = life.open()
    life.report(2)
    shard.begin_snapshot()
    assert list_shard(fs, FOLDER).temporaries
    life.snapshot()
    assert not list_shard(fs, FOLDER).temporaries
    life.open()
    life.check()


def test_log_bytes_count_from_the_last_snapshot() -> None:
    fs = FaultyFileSystem()
    life = Life(fs)
    life.begin()
    shard = life.open()
    life.report(5)
    grown = shard.log_bytes
    assert grown > SEGMENT
    life.snapshot()
    assert shard.log_bytes < grown
    assert open_shard(fs, FOLDER).log_bytes < grown
