"""What was asked for: put aside by lookups, noted by the day, kept by snapshots and by another number of shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time_ns
from typing import Any

import pytest

from shardhash.link import operations as op
from shardhash.link.collection_operations import BeginCollection, TakeDoomed
from shardhash.link.import_operations import TakeMappings
from shardhash.link.search_operations import FindRows
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import shard_folder
from shardhash.shard.storage.recovery import open_shard, recover
from shardhash.shard.worker import asking as asking_module
from shardhash.shard.worker import service as service_module
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from shardhash.wire import batch
from shardhash.wire.batch import Batch
from shardhash.wire.hashes import Key

FS = OsFileSystem()
A, B, C, D = (f"{number:02x}" * 32 for number in (0xA1, 0xB2, 0xC3, 0xD4))
OUT = "0e" * 32
LINK = object()


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The present day, as a worker sees it; a test may change it."""
    days = [day_of(time_ns() // 1000)]
    monkeypatch.setattr(asking_module, "time_ns", lambda: days[0] * 86_400_000_000_000)
    return days


async def stored_the_day_before(service: Service, day: list[int]) -> list[str]:
    """The taskhashes of a hundred mappings that were stored and noted; then a day passes."""
    hashes = [f"{number:064x}" for number in range(100)]
    for taskhash in hashes:
        await service.reports.map(op.Map("m", taskhash, taskhash))
    service.asking.note_now()
    day[0] += 1
    return hashes


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Service]:
    """One shard with files. Leaving stops it in order, without a snapshot."""
    prepare_directory(FS, directory, 1, print)
    shard = open_shard(FS, shard_folder(directory, 1, 0))
    writer = Writer(shard, wait_for_sync=True)
    writing = asyncio.create_task(writer.run())
    yield Service(shard, writer)
    writer.stop()
    await writing
    shard.table.check()
    shard.close()


async def report(service: Service, taskhash: str, outhash: str = OUT, created: int = 1) -> None:
    steps: list[Any] = [("commit", 1, created, "m", taskhash, outhash, taskhash, None, "zlib", None, None, None, None)]
    answers = service.reports.round(LINK, op.Round(steps))
    assert not isinstance(answers, list)
    await answers


def ask(service: Service, *taskhashes: str) -> None:
    service.lookup(batch.encode_request(Batch(batch.GET, "m", b"".join(map(bytes.fromhex, taskhashes)))))


def exists(service: Service, *unihashes: str) -> None:
    service.lookup(batch.encode_request(Batch(batch.EXISTS, "", b"".join(map(bytes.fromhex, unihashes)))))


def last(table: Table, taskhash: str) -> int:
    return table.last_asked("m", bytes.fromhex(taskhash))


async def test_lookups_reports_again_and_checks_are_noted_by_the_day(tmp_path: Path, day: list[int]) -> None:
    async with serving(tmp_path) as service:
        table, today = service._table, day[0]
        for taskhash in (A, B, C):
            await report(service, taskhash)
        await service.reports.map(op.Map("m", D, A))
        await service.asking.note()
        assert [last(table, taskhash) for taskhash in (A, B, C, D)] == [0, 0, 0, today]
        ask(service, A, "ee" * 32)
        await service.asking.note()
        assert [last(table, taskhash) for taskhash in (A, B, C, "ee" * 32)] == [today, 0, 0, 0]
        day[0] += 1
        exists(service, B, "ee" * 32)
        await report(service, C)
        service.unihashes(op.Unihashes("m", [A, "text"]))
        service.asking.note_now()
        assert [last(table, taskhash) for taskhash in (A, B, C, D)] == [today + 1, today + 1, today + 1, today]


async def test_what_is_at_hand_is_noted_once_a_day(tmp_path: Path, day: list[int]) -> None:
    async with serving(tmp_path) as service:
        table = service._table
        for taskhash in (A, B, C):
            await report(service, taskhash)
        ask(service, A, B, C)
        await service.asking.note()
        ask(service, A, B, C)
        assert table.method("m").aside == 0
        day[0] += 1  # nothing looks at the clock but who asks
        ask(service, A)
        await report(service, B)
        await service.asking.note()
        assert [last(table, taskhash) - day[0] for taskhash in (A, B, C)] == [0, 0, -1]


async def test_what_stays_at_hand_is_bounded_over_all_methods(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "KEPT", 5)
    async with serving(tmp_path) as service:
        hashes = [f"{number:064x}" for number in range(4)]
        methods = ["m", "n", "o"]
        for method in methods:
            for taskhash in hashes[: 4 if method != "o" else 1]:
                await service.reports.map(op.Map(method, taskhash, taskhash))
        await service.asking.note()
        table = service._table
        assert [len(table.method(method).asked) for method in methods] == [4, 0, 1]
        day[0] += 1
        ask(service, *hashes)
        await service.asking.note()
        assert {last(table, taskhash) for taskhash in hashes} == {day[0]}


@pytest.mark.parametrize("again", [False, True])
async def test_what_is_removed_before_it_is_noted_is_not_noted(tmp_path: Path, day: list[int], *, again: bool) -> None:
    """Its place among the days would stay for ever."""
    async with serving(tmp_path) as service:
        for text in (A, B):
            await service.reports.map(op.Map("m", text, text))
        service.asking.note_now()
        day[0] += 1
        ask(service, A, B)
        service.asking.tell()  # taken, and noted later
        service._table.apply(("unmap", "m", [A]))
        if again:
            service._table.apply(("map", "m", A, A, ""))
        service.asking.note_now()
        assert last(service._table, A) == (day[0] if again else 0)
        assert last(service._table, B) == day[0]
        assert len(service._table.methods["m"].days) == (2 if again else 1)


async def test_who_answers_a_check_is_one_of_those_that_share_the_unihash(tmp_path: Path, day: list[int]) -> None:
    async with serving(tmp_path) as service:
        for taskhash in (B, C):
            await service.reports.map(op.Map("m", taskhash, D))
        service.asking.note_now()
        day[0] += 1
        exists(service, D)
        service.asking.note_now()
        assert sorted(last(service._table, taskhash) for taskhash in (B, C)) == [day[0] - 1, day[0]]


async def test_days_survive_a_restart_by_a_snapshot(tmp_path: Path, day: list[int]) -> None:
    """What the last snapshot did not hold is lost, but for mappings that the log tells of: they count as used."""
    async with serving(tmp_path) as service:
        await report(service, A)
        ask(service, A)
        await service.snapshot(op.Snapshot())
        assert service.asking.days_written
        await report(service, B)
        await service.reports.map(op.Map("m", C, A))
        ask(service, B)
        service.asking.note_now()
        assert [service.asking.days_written] == [False]
    day[0] += 5
    async with serving(tmp_path) as service:
        service.asking.note_now()
        assert [last(service._table, taskhash) for taskhash in (A, B, C)] == [day[0] - 5, 0, day[0]]
        assert service._table.asked_from == day[0] - 5


@pytest.mark.parametrize("shards", [1, 3])
async def test_another_number_of_shards_keeps_the_days(tmp_path: Path, day: list[int], shards: int) -> None:
    async with serving(tmp_path) as service:
        for taskhash in (A, B, C):
            await report(service, taskhash)
        ask(service, A, B)
        await service.snapshot(op.Snapshot())
        await service.reports.map(op.Map("m", "any text", A))
    began = recover(FS, shard_folder(tmp_path, 1, 0)).table.asked_from
    prepare_directory(FS, tmp_path, 2, print)
    manifest = prepare_directory(FS, tmp_path, shards, print)
    tables = [recover(FS, folder).table for folder in manifest.folders(tmp_path)]
    assert {table.asked_from for table in tables} == {began}
    for taskhash in (A, B):
        assert sum(last(table, taskhash) for table in tables) == day[0]
    assert sum(table.last_asked("m", "any text") for table in tables) >= day[0]
    assert sum(last(table, C) for table in tables) == 0


@pytest.mark.parametrize("question", [ask, exists])
@pytest.mark.parametrize("follows", [False, True])
async def test_what_is_put_aside_is_bounded(
    tmp_path: Path,
    day: list[int],
    monkeypatch: pytest.MonkeyPatch,
    follows: bool,
    question: Callable[[Service, str], None],
) -> None:
    """Past the bound all counts as asked for today; but who follows what is asked for learns of each."""
    monkeypatch.setattr(asking_module, "MOST", 5)
    monkeypatch.setattr(asking_module, "FOLLOWED_MOST", 5)
    monkeypatch.setattr(asking_module, "TOO_MANY", 10)
    async with serving(tmp_path) as service:
        hashes = await stored_the_day_before(service, day)
        followed = service.asking.follow("one") if follows else {}
        for taskhash in hashes:
            question(service, taskhash)
            assert service._table.method("m").aside <= 11
        service.asking.note_now()
        table = service._table
        part = table.method("m")
        assert {table.last_used(part, bytes.fromhex(taskhash)) for taskhash in hashes} == {day[0]}
        assert part.full is not follows
        assert len(part.asked) <= 11
        # To note the rest of a day of which all counts would be of no use.
        assert {last(table, taskhash) for taskhash in hashes} == {day[0] if follows else day[0] - 1}
        if follows:
            assert {method: set(keys) for method, keys in followed.items()} == {"m": set(map(bytes.fromhex, hashes))}
        day[0] += 1
        ask(service, hashes[0])
        service.asking.note_now()
        assert last(table, hashes[0]) == day[0]
        assert table.last_used(part, bytes.fromhex(hashes[1])) == day[0] - 1


@pytest.mark.parametrize("method", ["m", "rare"])
@pytest.mark.parametrize("follows", [False, True])
async def test_the_unihashes_of_others_that_are_put_aside_are_bounded(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch, follows: bool, method: str
) -> None:
    for name, value in (("MOST", 5), ("FOLLOWED_MOST", 5), ("TOO_MANY", 10), ("LATER", 3)):
        monkeypatch.setattr(asking_module, name, value)
    async with serving(tmp_path) as service:
        table, hashes = service._table, [f"{number:064x}" for number in range(40)]
        for name in ("m", "n", "o", "p"):
            await service.reports.map(op.Map(name, D, A))
        for taskhash in hashes:
            await service.reports.map(op.Map(method, taskhash, f"{int(taskhash, 16) + 1000:064x}"))
        assert bool(table.rare) is (method == "rare")
        service.asking.note_now()
        day[0] += 1
        followed = service.asking.follow("one") if follows else {}
        part = table.method(method)
        for taskhash in hashes:
            exists(service, f"{int(taskhash, 16) + 1000:064x}")
            assert len(part.asked_unihashes) + len(table.rare.asked) <= 11
            assert sum(len(keys) for _, keys, _ in service.asking._taken) <= 12
        service.asking.note_now()
        assert {table.last_used(part, bytes.fromhex(taskhash)) for taskhash in hashes} == {day[0]}
        assert set(followed.get(method, ())) == (set(map(bytes.fromhex, hashes)) if follows else set())


async def test_who_follows_is_told_of_some_at_a_time(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be told of a large batch at once would hold all others up."""
    monkeypatch.setattr(service_module, "FOLLOWED_PART", 2)
    for name, value in (("FOLLOWED_MOST", 3), ("AT_ONCE", 4), ("LATER", 5)):
        monkeypatch.setattr(asking_module, name, value)
    async with serving(tmp_path) as service:
        hashes = await stored_the_day_before(service, day)
        followed = service.asking.follow("one")
        told: list[int] = []
        tell = service.asking._tell

        def counted(method: str, keys: list[Key]) -> None:
            told.append(len(keys))
            tell(method, keys)

        monkeypatch.setattr(service.asking, "_tell", counted)
        frame = batch.encode_request(Batch(batch.GET, "m", b"".join(map(bytes.fromhex, hashes))))
        assert service.is_long(frame)
        await service.lookup_in_parts(frame, b"")
        waits = sum(len(keys) for _, keys, _ in service.asking._taken)
        assert waits <= 5 * 4
        service.asking.tell()
        assert max(told) <= 3 + 4
        assert set(followed["m"]) == set(map(bytes.fromhex, hashes))
        service.asking.note_now()
        assert {last(service._table, taskhash) for taskhash in hashes} == {day[0]}
        day[0] += 1
        service.unihashes(op.Unihashes("m", hashes[:20]))  # which makes no room
        told.clear()
        ask(service, hashes[50])
        assert told == [2]
        service.asking.unfollow("one")
        assert not service.is_long(frame)


async def test_an_import_after_midnight_is_of_the_new_day(tmp_path: Path, day: list[int]) -> None:
    async with serving(tmp_path) as service:
        take = service.operations[TakeMappings]
        await take(TakeMappings([("m", A, A)]))
        service.asking.note_now()
        service._table.method("m").fill_asked(keep=True)  # as on a day of which all counts
        day[0] += 1
        await take(TakeMappings([("m", B, B)]))
        service.asking.note_now()
        assert last(service._table, B) == day[0]


async def test_who_follows_learns_of_each_on_a_day_of_which_all_counts(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "MOST", 2)
    monkeypatch.setattr(asking_module, "TOO_MANY", 3)
    async with serving(tmp_path) as service:
        for method in ("m", "n"):
            for text in (A, B, C, D):
                await service.reports.map(op.Map(method, text, text))
        service.asking.note_now()
        day[0] += 1
        for method in ("m", "n"):
            service.lookup(batch.encode_request(Batch(batch.GET, method, b"".join(map(bytes.fromhex, (A, B, C, D))))))
        m, n = (service._table.method(method) for method in ("m", "n"))
        assert (m.full, len(m.asked)) == (True, 4)
        assert (n.full, len(n.asked)) == (True, 0)  # one method's stay at hand
        exists(service, D)
        service.asking.note_now()
        assert (len(m.asked), len(n.asked)) == (4, 0)
        followed = service.asking.follow("one")
        ask(service, A)
        exists(service, B)
        service.asking.tell()
        assert set(followed["m"]) == {bytes.fromhex(A), bytes.fromhex(B)}


async def test_much_that_is_put_aside_is_noted_soon(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "MOST", 2)
    async with serving(tmp_path) as service:
        for taskhash in (A, B, C):
            await report(service, taskhash)
        await service.asking.note()
        day[0] += 1
        ask(service, A)
        await service.asking.note_sometimes()
        assert last(service._table, A) < day[0], "it was noted lately"
        ask(service, B)
        ask(service, C)
        await service.asking.note_sometimes()
        assert {last(service._table, taskhash) for taskhash in (A, B, C)} == {day[0]}


@pytest.mark.parametrize(
    ("taskhash", "unihash", "question"),
    [(A, A, ask), (A, A, exists), (B, D, ask), (B, D, lambda service, _taskhash: exists(service, D))],
    ids=["lookup", "existence", "lookup of another", "existence of another"],
)
@pytest.mark.parametrize("others", [False, True])
async def test_what_is_asked_for_while_it_is_removed_comes_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taskhash: str,
    unihash: str,
    question: Callable[[Service, str], None],
    others: bool,
) -> None:
    """A collection decided on it, and a build is answered before the removal is durable."""
    async with serving(tmp_path) as service:
        await service.reports.map(op.Map("m", taskhash, unihash))
        if others:
            await report(service, C)
        service.asking.note_now()
        collecting, sync = service.collecting, service._writer._sync
        await collecting.begin(BeginCollection("c"))

        async def slow() -> None:
            question(service, taskhash)
            await sync()

        monkeypatch.setattr(service._writer, "_sync", slow)
        taken = await collecting.take(TakeDoomed("c", [("m", taskhash, unihash)]))
        monkeypatch.undo()
        assert taken is not None
        assert taken.mappings == 0
        found = service._table.unihash("m", bytes.fromhex(taskhash))
        assert found is not None
        assert found.hex() == unihash


async def test_a_clock_that_was_ahead_does_not_end_the_noting(tmp_path: Path, day: list[int]) -> None:
    async with serving(tmp_path) as service:
        await report(service, A)
        day[0] += 60
        ask(service, A)
        service.asking.note_now()
        service._table.method("m").days.forget([bytes.fromhex(A)])
        day[0] -= 60
        for _ in range(3):
            ask(service, A)
            service.asking.note_now()
            assert last(service._table, A) == day[0]
            day[0] += 1


async def test_whoever_follows_learns_what_is_asked_for_from_then_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        for taskhash in (A, B, C, D):
            await report(service, taskhash)
        ask(service, A)
        followed = service.asking.follow("one")
        ask(service, B)
        await report(service, C)
        await service.asking.note()
        assert {method: set(keys) for method, keys in followed.items()} == {"m": {bytes.fromhex(B), bytes.fromhex(C)}}
        service.asking.unfollow("one")
        ask(service, D)
        await service.asking.note()
        assert bytes.fromhex(D) not in followed["m"]


async def test_a_search_tells_when_a_mapping_was_last_asked_for(tmp_path: Path, day: list[int]) -> None:
    day[0] = 20_786
    async with serving(tmp_path) as service:
        for taskhash in (A, B):
            await report(service, taskhash)
        ask(service, A)
        find = service.operations[FindRows]
        rows = (await find(FindRows({"method": "m"}, None, 10, False))).rows
        assert {row["taskhash"]: row["asked"] for row in rows} == {A: "2026-11-29", B: None}


async def test_unknown_counts_as_used_and_rows_count_as_reported() -> None:
    table = Table()
    part = table.method("m")
    key = bytes.fromhex(A)
    table.set_mapping(part, key, key, "")
    assert table.last_used(part, key) == 0
    table.put_row(part, key, key, 5 * 86_400_000_000, (None,) * 5, 0)
    assert table.last_used(part, key) == 5
    table.asked_from = 7
    assert table.last_used(part, key) == 7
    part.days.note((key,), 9)
    assert table.last_used(part, key) == 9


async def test_checks_that_rare_methods_answer_are_noted_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        methods = [f"method {number}" for number in range(40)]
        for method in methods:
            await service.reports.map(op.Map(method, A, A if method < "method 2" else B))
        service.asking.note_now()
        table = service._table
        for part in table.methods.values():
            part.days.forget([bytes.fromhex(A)])
            part.clear_asked()
        assert table.rare
        exists(service, A, B)
        service.asking.note_now()
        assert all(table.last_asked(method, bytes.fromhex(A)) for method in methods)


async def test_unihashes_that_exist_are_noted_some_at_a_time(
    tmp_path: Path, day: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "SLICE", 10)
    async with serving(tmp_path) as service:
        table = service._table
        tasks = [f"{number:064x}" for number in range(1, 61)]
        for method in ("m", "n", "o", "p", "rare"):
            for task in tasks:
                unihash = f"{int(task, 16) + 1000:064x}"
                await service.reports.map(op.Map(method, task, unihash))
        await service.asking.note()
        day[0] += 1
        exists(service, *[f"{number + 1000:064x}" for number in range(1, 61)])
        looked: list[int] = []
        look = service.asking._look_for_some

        def counted(most: int) -> None:
            looked.append(most)
            look(most)

        monkeypatch.setattr(service.asking, "_look_for_some", counted)
        await service.asking.note()
        assert looked == [10] * 30  # of five methods, four of which are looked through one by one
        for method in ("m", "n", "o", "p", "rare"):
            assert {table.last_asked(method, bytes.fromhex(task)) for task in tasks} == {day[0]}
