"""Journals: what is added comes out once, in order, whatever the disk does; power cuts before every operation."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.errors import StorageError
from shardhash.outbox.files import FileJournal
from shardhash.outbox.journal import Item, Journal, MemoryJournal
from shardhash.shard.storage.filesystem import OsFileSystem
from tests.shard.faulty import FaultyFileSystem, PowerCutError, Survives, power_cuts

FOLDER = Path("/outbox")
SEGMENT = 400
"""Bytes of a segment: a few records."""


def payload(number: int, size: int = 40) -> bytes:
    return f"{number:06}".encode() + b"x" * size


def number_of(item: Item) -> int:
    return int(item.payload[:6])


def drain(journal: Journal, records: int = 3) -> list[int]:
    """Take everything."""
    taken: list[int] = []
    while items := journal.read(None, records, 1 << 20):
        journal.take(items[-1])
        journal.save()
        taken += map(number_of, items)
    return taken


@pytest.fixture(params=["memory", "files"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return MemoryJournal() if request.param == "memory" else FileJournal(OsFileSystem(), tmp_path / "outbox", SEGMENT)


def test_what_is_added_is_read_in_order_until_it_is_taken(journal: Journal) -> None:
    assert journal.read(None, 10, 1000) == []
    assert (journal.count, journal.size) == (0, 0)
    for number in range(0, 40, 2):
        journal.append([payload(number), payload(number + 1)], 1_000_000 + number, sync=True)
    assert journal.count == 40
    size = journal.size
    first = journal.read(None, 5, 1 << 20)
    assert [number_of(item) for item in first] == [0, 1, 2, 3, 4]
    assert [item.time for item in first] == [1_000_000, 1_000_000, 1_000_002, 1_000_002, 1_000_004]
    assert journal.read(None, 5, 1 << 20) == first
    assert [number_of(item) for item in journal.read(first[-1].after, 2, 1 << 20)] == [5, 6]
    journal.take(first[2])
    assert journal.count == 37
    assert journal.size < size
    assert drain(journal) == list(range(3, 40))
    assert (journal.count, journal.size) == (0, 0)
    journal.append([payload(99)], 1, sync=True)
    assert drain(journal) == [99]
    journal.close()


def test_a_reading_is_as_long_as_it_may_be_and_one_record_at_least(journal: Journal) -> None:
    journal.append([payload(number, 94) for number in range(10)], 1, sync=True)
    assert len(journal.read(None, 100, 350)) == 3
    assert len(journal.read(None, 100, 1)) == 1
    journal.append([payload(10, 3 << 20)], 1, sync=True)
    journal.take(journal.read(None, 100, 1000)[-1])
    assert [len(item.payload) for item in journal.read(None, 100, 1000)] == [6 + (3 << 20)]


def test_a_start_goes_on_where_it_was(tmp_path: Path) -> None:
    fs, folder = OsFileSystem(), tmp_path / "outbox"
    expected: list[int] = []
    taken: list[int] = []
    for start in range(6):
        journal = FileJournal(fs, folder, SEGMENT)
        assert journal.count == len(expected) - len(taken)
        journal.append([payload(start * 10 + each) for each in range(10)], start, sync=True)
        expected += range(start * 10, start * 10 + 10)
        items = journal.read(None, 7, 1 << 20)
        journal.take(items[-1])
        journal.note = {"start": start}
        journal.save()
        taken += map(number_of, items)
        if start % 2:
            journal.close()
    journal = FileJournal(fs, folder, SEGMENT)
    assert journal.note == {"start": 5}
    assert taken + drain(journal) == expected
    assert len([name for name in fs.listdir(folder) if name.startswith("log-")]) <= 2, "what is taken goes"


def test_what_was_taken_and_not_saved_comes_again(tmp_path: Path) -> None:
    fs, folder = OsFileSystem(), tmp_path / "outbox"
    journal = FileJournal(fs, folder, SEGMENT)
    journal.append([payload(number) for number in range(20)], 1, sync=True)
    journal.take(journal.read(None, 15, 1 << 20)[-1])
    again = FileJournal(fs, folder, SEGMENT)
    assert drain(again) == list(range(20))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"position":{"segment":9,"offset":0,"number":1},"checksum":"00000000"}']
)
def test_a_position_that_is_damaged_sends_everything_again(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fs, folder = OsFileSystem(), tmp_path / "outbox"
    journal = FileJournal(fs, folder, 1 << 20)
    journal.append([payload(number) for number in range(9)], 1, sync=True)
    journal.take(journal.read(None, 5, 1 << 20)[-1])
    journal.save()
    (folder / "position.json").write_bytes(content)
    assert drain(FileJournal(fs, folder, 1 << 20)) == list(range(9))
    assert "position.json is damaged" in caplog.text


@pytest.mark.parametrize("where", ["middle", "head", "header"])
def test_damage_is_told_and_skipped_and_the_file_is_kept(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fs, folder = OsFileSystem(), tmp_path / "outbox"
    journal = FileJournal(fs, folder, SEGMENT)
    for number in range(20):
        journal.append([payload(number)], 1, sync=True)
    path = folder / "log-0000000002.log"
    data = bytearray(path.read_bytes())
    data[{"middle": 150, "head": 29, "header": 3}[where]] ^= 1
    path.write_bytes(data)
    taken = drain(FileJournal(fs, folder, SEGMENT))
    lost = {"middle": 1, "head": 1, "header": 0}[where]
    assert len(taken) == 20 - lost
    assert taken == sorted(taken)
    if lost:
        assert "log-0000000002.log is damaged at byte" in caplog.text
        assert (folder / "log-0000000002.log.damaged").read_bytes() == data


def test_a_disk_that_refuses_says_so_and_heals() -> None:
    fs = FaultyFileSystem()
    journal = FileJournal(fs, FOLDER, SEGMENT)
    journal.append([payload(0)], 1, sync=True)
    for number, error in enumerate((errno.ENOSPC, errno.EIO), 1):
        fs.fail(0, error, times=100)
        with pytest.raises(StorageError):
            journal.append([payload(90)], 1, sync=True)
        fs.before = lambda _number, _name: None
        journal.append([payload(number)], 1, sync=True)
    assert drain(journal) == [0, 1, 2]
    journal.close()
    assert drain(FileJournal(fs, FOLDER, SEGMENT)) == []


@pytest.mark.parametrize("operation", ["write", "fsync", "create", "truncate"])
def test_one_operation_that_fails_loses_nothing_that_was_added(operation: str) -> None:
    fs = FaultyFileSystem()
    journal = FileJournal(fs, FOLDER, SEGMENT)
    added = []
    for number in range(60):
        fs.fail(number % 7, errno.EIO, only=operation)
        try:
            journal.append([payload(number)], 1, sync=True)
            added.append(number)
        except StorageError:
            pass
    fs.before = lambda _number, _name: None
    fs.power_cut("synced", random.Random(1))
    again = FileJournal(fs, FOLDER, SEGMENT)
    taken = drain(again)
    assert set(added) <= set(taken)
    assert len(added) > 30


# ---------------------------------------------------------------------------------------------------- power cuts


class Life:
    """A journal that is added to and taken from; `added` and `saved` are what was acknowledged."""

    def __init__(self, fs: FaultyFileSystem) -> None:
        self.fs = fs
        self.added: list[int] = []
        self.begun = 0
        self.taken: set[int] = set()
        self.journal = FileJournal(fs, FOLDER, SEGMENT)

    def open(self) -> None:
        self.journal = FileJournal(self.fs, FOLDER, SEGMENT)

    def add(self, count: int) -> None:
        numbers = list(range(self.begun, self.begun + count))
        self.begun += count
        self.journal.append([payload(number) for number in numbers], 1, sync=True)
        self.added += numbers

    def take(self, records: int) -> None:
        items = self.journal.read(None, records, 1 << 20)
        self.taken |= set(map(number_of, items))
        if items:
            self.journal.take(items[-1])
        self.journal.save()

    def check(self) -> None:
        """Nothing that was added is lost, unless it was taken; and what comes is in order."""
        left = drain(self.journal, 5)
        assert left == sorted(left)
        assert len(left) == len(set(left))
        self.taken |= set(left)
        assert set(self.added) <= self.taken
        assert self.journal.count == 0


def adding(life: Life) -> None:
    for count in (1, 3, 2, 5, 1):
        life.add(count)


def taking(life: Life) -> None:
    for count in (2, 4, 3, 6, 2):
        life.add(count)
        life.take(4)
    life.take(100)
    life.add(1)


def reopening(life: Life) -> None:
    for count in (1, 4, 2):
        life.add(count)
        life.take(2)
        life.journal.close()
        life.open()
        life.add(1)
        life.open()


SCENARIOS = [adding, taking, reopening]


def cuts(scenario: Callable[[Life], None]) -> Iterator[tuple[Life, int]]:
    for _, life, number in power_cuts(started, scenario):
        yield life, number


def started() -> tuple[FaultyFileSystem, Life]:
    fs = FaultyFileSystem()
    return fs, Life(fs)


@pytest.mark.parametrize("survives", ["synced", "all", "part"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_power_cut_before_every_operation(scenario: Callable[[Life], None], survives: Survives) -> None:
    count = 0
    for life, number in cuts(scenario):
        life.fs.power_cut(survives, random.Random(number))
        life.open()
        life.add(2)
        life.fs.power_cut(survives, random.Random(-number))
        life.open()
        life.check()
        life.add(1)
        life.take(9)
        life.open()
        life.check()
        count += 1
    assert count > 10


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_second_cut_during_the_start(scenario: Callable[[Life], None]) -> None:
    for life, number in cuts(scenario):
        chance = random.Random(number)
        life.fs.power_cut("part", chance)
        again, finished = 0, False
        while not finished:
            life.fs.cut_before(again)
            try:
                life.open()
                finished = True
            except PowerCutError:
                life.fs.power_cut("part", chance)
            again += 1
        life.fs.before = lambda _number, _name: None
        life.check()


STEPS = ["add", "take", "open", "close", "cut", "half"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "take", "open", "close", "cut", "half"]), st.integers(1, 9))),
    st.integers(),
)
def test_any_life(steps: list[tuple[str, int]], seed: int) -> None:
    chance = random.Random(seed)
    life = Life(FaultyFileSystem())
    for step, count in steps:
        if step == "add":
            life.add(count)
        elif step == "take":
            life.take(count)
        elif step == "half":
            life.fs.cut_before(count)
            try:
                life.add(count)
            except PowerCutError:
                life.fs.power_cut("part", chance)
                life.open()
            life.fs.before = lambda _number, _name: None
        else:
            if step == "close":
                life.journal.close()
            if step == "cut":
                life.fs.power_cut("part", chance)
            life.open()
    life.check()


def test_a_segment_that_was_never_begun_hides_nothing(tmp_path: Path) -> None:
    """A crash left it, and a disk that took no writes at the next start."""
    fs, folder = OsFileSystem(), tmp_path / "outbox"
    folder.mkdir()
    (folder / "log-0000000001.log").write_bytes(b"\0" * 12)
    journal = FileJournal(fs, folder, SEGMENT)
    journal.append([payload(number) for number in range(9)], 1, sync=True)
    (folder / "log-0000000001.log").write_bytes(b"\0" * 12)
    again = FileJournal(fs, folder, SEGMENT)
    assert again.count == 9
    assert drain(again) == list(range(9))
