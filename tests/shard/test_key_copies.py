"""Walks over a table copy its keys a slice at a time, which holds writes up, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shardhash.link import operations as op
from shardhash.link.search_operations import GuessUnihashes
from shardhash.shard.state import key_copies, search, selection
from shardhash.shard.state.key_copies import Copies, Keys
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.storage.recovery import begin_shard, open_shard
from shardhash.shard.worker.guessing import Guessing
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from shardhash.wire.hashes import Key

SIZE = 10
MANY = 45


def digest(number: int) -> bytes:
    return number.to_bytes(32)


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_copies, "COPIED", SIZE)


class Counted(dict[Any, Any]):
    """A dict that counts the keys that walks took."""

    taken = 0

    def __iter__(self) -> Iterator[Any]:
        for key in super().__iter__():
            self.taken += 1
            yield key


def filled(*, mapped: bool = True) -> Table:
    table = Table()
    part = table.method("m")
    for name in ("mappings", "rows", "index"):
        setattr(part, name, Counted())
    for number in range(MANY):
        if mapped:
            table.set_mapping(part, digest(number), digest(0), "")
        table.put_row(part, digest(number), digest(number), number, (None, "zlib", None, None, "do_x"), 0)
        table.put_index(part, digest(number), digest(number), number)
    return table


def taken(part: MethodTable) -> int:
    return sum(getattr(part, name).taken for name in ("mappings", "rows", "index"))


def under_way(table: Table) -> bool:
    return table.copies.under_way


WALKS: dict[str, Callable[[Table], Iterator[Any]]] = {
    "mappings": lambda table: selection.select_mappings(table, {"method": "m"}),
    "unmarked": lambda table: selection.select_unmarked(table, "mark"),
    "rows": lambda table: selection.select_rows(table, {"PN": "zlib"}, lambda _reference, _text: False),
    "unused": lambda table: selection.select_unused(table, MANY),
    "find": lambda table: search.find(table, {"PN": "zlib"}),
    "diverging": lambda table: search.find_diverging(table, {"PN": "zlib"}),
    "saved": lambda table: search.count_saved(table, 0),
    "recent": lambda table: RecentTasks(table, "m").walk,
    "snapshot": lambda table: snapshot_chunks.freeze(table, 4),
}


@pytest.mark.parametrize("walk", WALKS)
def test_no_step_copies_more_keys_than_a_slice(walk: str) -> None:
    table = filled(mapped=walk != "unused")
    part, before, steps = table.methods["m"], 0, 0
    for _ in WALKS[walk](table):
        assert taken(part) - before <= SIZE
        before = taken(part)
        steps += table.copies.under_way
    assert steps >= MANY // SIZE
    assert not table.copies.under_way


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_that_nobody_waits_for_begins_anew(walk: str) -> None:
    """What it copied would miss what came, and have what went."""
    table = filled(mapped=walk != "unused")
    part = table.methods["m"]
    steps = WALKS[walk](table)
    while not table.copies.under_way:
        next(steps)
    table.copies.give_up()
    for number in range(MANY, 2 * MANY):
        table.put_row(part, digest(number), digest(number), number, (None, "zlib", None, None, "do_x"), 0)
        if walk != "unused":
            table.set_mapping(part, digest(number), digest(1), "")
    for _ in steps:
        pass
    assert taken(part) >= 2 * MANY or walk == "unused"
    assert not table.copies.under_way


def test_a_walk_that_is_never_waited_for_copies_all_at_once() -> None:
    copies, where = Copies(), dict.fromkeys(map(digest, range(MANY)))
    steps = copies.make(0, where)
    keys: Keys | None = None
    while keys is None:
        try:
            next(steps)
            copies.give_up()
        except StopIteration as end:
            keys = end.value
    assert not any(map(gc.is_tracked, keys._parts))
    assert [key for some in keys.slices(7) for key in some] == list(where)


def test_a_copy_of_very_many_keys_takes_no_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_copies, "COPIED", 1)
    monkeypatch.setattr(key_copies, "STOPS", 5)
    assert len(list(Copies().make(0, dict.fromkeys(map(digest, range(MANY)))))) == 5


async def test_a_guess_that_is_cancelled_leaves_no_copy_under_way() -> None:
    table = filled()
    guessing, asked = Guessing(table), GuessUnihashes("m", [("zlib", "do_x")])
    guess = asyncio.create_task(guessing.guess(asked))
    await asyncio.sleep(0)
    assert under_way(table)
    guess.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guess
    assert not under_way(table)
    assert (await guessing.guess(asked)).complete


def test_a_snapshot_that_is_abandoned_leaves_no_copy_under_way(tmp_path: Path) -> None:
    begin_shard(OsFileSystem(), tmp_path / "shard")
    shard = open_shard(OsFileSystem(), tmp_path / "shard")
    part = shard.table.method("m")
    for number in range(MANY):
        shard.table.set_mapping(part, digest(number), digest(number), "")
    job = shard.begin_snapshot()
    while not under_way(shard.table):
        assert job.step()
    job.abandon()
    assert not under_way(shard.table)
    shard.close()


async def test_the_second_try_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.shard.worker.writer.MOST_COPYING", -1.0)
    gave_up, give_up = 0, Copies.give_up

    def counted(copies: Copies) -> None:
        nonlocal gave_up
        gave_up += 1
        give_up(copies)
        monkeypatch.setattr("shardhash.shard.worker.writer.MOST_COPYING", 1e6)

    monkeypatch.setattr(Copies, "give_up", counted)
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    steps = shard.table.copies.make(None, dict.fromkeys(map(digest, range(MANY))))
    next(steps)
    change = Service(shard, writer).reports.map(op.Map("m", digest(1).hex(), digest(1).hex()))
    for _ in steps:
        await asyncio.sleep(0)
    await change
    assert gave_up == 1
    writer.stop()
    await writing


def test_a_walk_that_ends_half_way_is_not_waited_for() -> None:
    table = filled()
    steps = search.find(table, {"PN": "zlib"})
    while not table.copies.under_way:
        next(steps)
    del steps
    assert not table.copies.under_way


def test_keys_come_in_order_and_are_let_go() -> None:
    parts: list[list[Key]] = [[digest(number) for number in range(start, start + 5)] for start in (0, 5)]
    due = [[digest(number) for number in some] for some in ((0, 1), (2, 3), (4,), (5, 6), (7, 8), (9,))]
    assert list(Keys(parts).slices(2)) == due
    assert parts == []


async def test_a_write_waits_until_all_keys_are_copied_and_lookups_do_not() -> None:
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    service = Service(shard, writer)
    for number in range(MANY):
        await service.reports.map(op.Map("m", digest(number).hex(), digest(0).hex()))
    steps = shard.table.copies.make(None, shard.table.methods["m"].mappings)
    next(steps)
    change = service.reports.map(op.Map("m", digest(100).hex(), digest(1).hex()))
    for number in count():
        assert service.unihashes(op.Unihashes("m", [digest(0).hex(), digest(100).hex()])) == [digest(0).hex(), None]
        assert not change.done()
        await asyncio.sleep(0)
        if next(steps, steps) is steps:
            break
        assert number < MANY
    assert await change == digest(1).hex()
    assert service.unihashes(op.Unihashes("m", [digest(100).hex()])) == [digest(1).hex()]
    writer.stop()
    await writing


async def test_a_write_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.shard.worker.writer.MOST_COPYING", 0.01)
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=False)
    writing = asyncio.create_task(writer.run())
    steps = shard.table.copies.make(None, dict.fromkeys(map(digest, range(MANY))))
    next(steps)
    await Service(shard, writer).reports.map(op.Map("m", digest(1).hex(), digest(1).hex()))
    assert not shard.table.copies.under_way
    writer.stop()
    await writing
