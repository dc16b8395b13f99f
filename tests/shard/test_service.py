"""Operations of a shard that meet: removals and reports of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shardhash.errors import StorageError
from shardhash.link import operations as op
from shardhash.shard.state import selection
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker import removals
from shardhash.shard.worker import service as service_module
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer
from shardhash.wire import batch
from shardhash.wire.hashes import Buffer

LINK = object()
TASK, OTHER, OUT, UNI = "1" * 64, "2" * 64, "3" * 64, "4" * 64
FAR_FUTURE = 1 << 60


@asynccontextmanager
async def running() -> AsyncIterator[Service]:
    shard = MemoryShard()
    writer = Writer(shard, wait_for_sync=True)
    writing = asyncio.create_task(writer.run())
    yield Service(shard, writer)
    writer.stop()
    await writing
    shard.table.check()


def step(kind: str, taskhash: str, number: int, outhash: str = OUT, unihash: str = UNI) -> Any:
    """A step of a report, made at the time `number`."""
    place = (kind, number, number, "m", taskhash, outhash)
    return place if kind == "index" else (*place, unihash, None, None, None, None, None, None)


async def do_round(service: Service, *steps: Any) -> list[Any]:
    answers = service.reports.round(LINK, op.Round(list(steps)))
    return answers if isinstance(answers, list) else await answers


async def lock(service: Service, taskhash: str, number: int, created: int | None = None) -> list[op.Item]:
    """The first page of the index, once the lock is held."""
    item = (number if created is None else created, taskhash)
    return (await service.reports.lock(LINK, op.Lock("m", OUT, [item], number))).page


def release(service: Service, number: int) -> None:
    service.reports.release(LINK, op.Release([("m", OUT, number)]))


async def report(service: Service, taskhash: str, number: int) -> None:
    """All of a report, as report_order.py does it when the shard owns both hashes."""
    if await do_round(service, step("report", taskhash, number)) == [None]:
        await lock(service, taskhash, number)
        await do_round(service, step("commit", taskhash, number))
        release(service, number)


def indexed(service: Service) -> list[str]:
    return [taskhash for _, taskhash in service.reports.page(op.Page("m", OUT, None, mapped=False))]


async def remove(service: Service, **where: str) -> op.Removed:
    return await service.removals.remove(op.RemoveMatching("job", dict(where)))


def counts(service: Service) -> dict[str, int]:
    return service.counts(op.Counts())


async def test_the_index_item_of_a_removed_row_goes() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.removals.watch(op.Watch("job"))
        gone = await remove(service, outhash=OUT)
        assert gone == op.Removed(1, [("m", [(OUT, TASK)])], done=True)
        await service.removals.unindex(op.Unindex("job", "m", [(OUT, TASK)]))
        assert indexed(service) == []


async def test_a_row_that_came_back_during_its_removal_keeps_its_index_item() -> None:
    """Without it, later reports of the outhash would never find this one: equivalence lost."""
    async with running() as service:
        await report(service, TASK, 1)
        service.removals.watch(op.Watch("job"))
        await remove(service, outhash=OUT)
        await report(service, TASK, 2)
        await service.removals.unindex(op.Unindex("job", "m", [(OUT, TASK)]))
        assert indexed(service) == [TASK]
        assert service.reports.equivalents(op.Equivalents("m", OUT, [TASK])) == [UNI]


async def test_a_report_that_had_its_turn_before_the_removal_keeps_its_index_item() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        await lock(service, TASK, 2)
        service.removals.watch(op.Watch("job"))
        await remove(service, outhash=OUT)
        await do_round(service, step("commit", TASK, 2))
        release(service, 2)
        await service.removals.unindex(op.Unindex("job", "m", [(OUT, TASK)]))
        assert indexed(service) == [TASK]


async def test_a_removal_whose_watch_was_lost_leaves_index_items_which_do_no_harm() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.removals.watch(op.Watch("job"))
        await remove(service, outhash=OUT)
        service.drop_link(LINK)
        await service.removals.unindex(op.Unindex("job", "m", [(OUT, TASK)]))
        assert indexed(service) == [TASK]
        assert service.reports.equivalents(op.Equivalents("m", OUT, [TASK])) == [None]


async def test_a_turn_that_comes_while_items_go_has_its_item() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.removals.watch(op.Watch("job"))
        await remove(service, outhash=OUT)
        unindex = asyncio.create_task(service.removals.unindex(op.Unindex("job", "m", [(OUT, TASK)])))
        while not unindex.done():
            await asyncio.sleep(0)
            await lock(service, TASK, 5)
            release(service, 5)
        assert indexed(service) == [TASK]


async def test_a_row_that_a_report_maps_again_meanwhile_is_not_unused() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        await remove(service, taskhash=TASK, unihash=UNI)
        await report(service, TASK, 2)
        await remove(service, unihash=UNI)
        assert counts(service)["mappings"] == 0
        assert counts(service)["rows"] == 1
        # Decided in the group of the removal; it maps a row that was there without a mapping.
        committed = service.reports.round(LINK, op.Round([step("commit", TASK, 3)]))
        assert isinstance(committed, asyncio.Future)
        cleaned = await service.removals.clean(op.Clean("job", FAR_FUTURE))
        assert await committed == [(UNI, [OUT])]
        assert cleaned.rows == 0
        assert counts(service)["rows"] == 1


async def test_a_row_from_elsewhere_takes_the_place_of_its_time() -> None:
    """The oldest row of an outhash is the oldest by `created`, not by when it came here."""
    async with running() as service:
        await report(service, TASK, 100)
        await lock(service, OTHER, 101, created=50)
        release(service, 101)
        assert indexed(service) == [OTHER, TASK]


async def test_reports_of_new_outhashes_are_one_write() -> None:
    async with running() as service:
        steps = [step("report", f"{n:064}", n, outhash=f"{n + 100:064}", unihash=f"{n:064}") for n in range(5)]
        assert await do_round(service, *steps) == [f"{n:064}" for n in range(5)]
        assert counts(service) == {"mappings": 5, "rows": 5, "index": 5, "users": 0, "config": 0}


async def test_of_two_steps_for_one_outhash_the_second_has_to_wait() -> None:
    async with running() as service:
        first, second = step("report", TASK, 1), step("report", OTHER, 2, unihash=OTHER)
        assert await do_round(service, first, second) == [UNI, None]
        assert service.unihashes(op.Unihashes("m", [TASK, OTHER])) == [UNI, None]
        assert await do_round(service, second) == [UNI]  # the shard knows the other one's unihash now
        assert service.unihashes(op.Unihashes("m", [TASK, OTHER])) == [UNI, UNI]
        assert await lock(service, "9" * 64, 3) == [(1, TASK), (2, OTHER), (3, "9" * 64)]


async def test_a_report_that_is_known_is_answered_at_once() -> None:
    async with running() as service:
        assert await do_round(service, step("report", TASK, 1), step("report", TASK, 2, outhash="5" * 64)) == [UNI, UNI]
        assert await do_round(service, step("report", TASK, 3, unihash=OTHER)) == [UNI]
        assert indexed(service) == [TASK]
        assert counts(service)["rows"] == 2


@pytest.mark.parametrize("condition", [{"unihash": UNI}, {"outhash": OUT}])
async def test_a_report_of_an_outhash_whose_oldest_row_says_nothing_has_to_wait(condition: dict[str, str]) -> None:
    """The row lost its mapping, or the index its row: the coordinator goes through the index."""
    async with running() as service:
        await report(service, TASK, 1)
        await remove(service, **condition)
        first, second = step("report", OTHER, 2, unihash=OTHER), step("report", "9" * 64, 3, unihash="9" * 64)
        assert await do_round(service, first, second) == [None, None]
        assert service.unihashes(op.Unihashes("m", [OTHER, "9" * 64])) == [None, None]
        assert await lock(service, OTHER, 2) == [(1, TASK), (2, OTHER)], "nobody holds the lock"


async def test_a_report_does_not_overtake_one_that_has_to_wait() -> None:
    """The oldest item has no row any more; a report of its task must wait behind one that goes through the index."""
    async with running() as service:
        await report(service, TASK, 1)
        await report(service, OTHER, 2)
        await remove(service, taskhash=TASK)
        waits, known = step("report", "9" * 64, 3, unihash="9" * 64), step("report", OTHER, 4)
        assert await do_round(service, waits, known) == [None, None]
        assert await do_round(service, known) == [UNI]


async def test_a_mapping_that_goes_in_the_same_group_is_not_given_away() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        removed = asyncio.create_task(remove(service, unihash=UNI))
        await asyncio.sleep(0)
        answers = await do_round(service, step("report", OTHER, 2, unihash=OTHER))
        await removed
        assert answers == [None]
        assert service.unihashes(op.Unihashes("m", [OTHER])) == [None]


async def test_a_round_asked_again_does_nothing_twice() -> None:
    """The worker may have died between the write and the answer."""
    async with running() as service:
        steps = [step("report", TASK, 1), step("index", OTHER, 2, outhash="5" * 64)]
        assert await do_round(service, *steps) == [UNI, True]
        before = counts(service)
        service.drop_link(LINK)
        assert await do_round(service, *steps) == [UNI, None]
        assert await lock(service, TASK, 1) == [(1, TASK)]
        assert await do_round(service, step("commit", TASK, 1)) == [UNI]
        assert counts(service) == before


async def test_an_index_step_holds_the_turn_until_it_is_released() -> None:
    async with running() as service:
        assert await do_round(service, step("index", TASK, 1)) == [True]
        waits = asyncio.ensure_future(lock(service, OTHER, 2))
        assert await do_round(service, step("commit", TASK, 1)) == [UNI]
        assert not waits.done()
        release(service, 1)
        assert await waits == [(1, TASK), (2, OTHER)]


async def test_a_step_that_the_disk_refuses_leaves_the_others_and_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_shard: MemoryShard, _text: str) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(MemoryShard, "put_siginfo", refuse)
    async with running() as service:
        steps = [step("index", OTHER, 1, outhash="5" * 64), step("report", TASK, 2)]
        texts = (*steps[1][:-1], "a text")
        assert await do_round(service, steps[0], texts) == [True, {"refused": ("storage", "the disk is full")}]
        assert counts(service)["rows"] == 0
        assert await do_round(service, steps[1]) == [UNI]
        assert await do_round(service, step("index", TASK, 3, outhash="5" * 64)) == [None]  # that lock is still held


async def test_an_item_that_was_there_is_named_and_can_be_given_another_time() -> None:
    """A report that the disk refused has left it."""
    async with running() as service:
        await lock(service, TASK, 1)
        release(service, 1)
        asked = op.Lock("m", OUT, [(5, TASK), (6, OTHER), (7, TASK)], 5)
        assert (await service.reports.lock(LINK, asked)).older == [TASK, TASK]
        await service.reports.retime(op.Retime("m", OUT, [(7, TASK)]))
        assert indexed(service) == [OTHER, TASK]
        release(service, 5)
        again = await service.reports.lock(LINK, op.Lock("m", OUT, [(8, OTHER)], 8))
        assert again == op.Granted([OTHER], [(6, OTHER), (7, TASK)])


async def test_a_sweep_goes_on_a_page_at_a_time_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "PAGE_TIME", -1.0)
    monkeypatch.setattr(selection, "SLICE", 2)
    async with running() as service:
        for number in range(7):
            await service.reports.map(op.Map("m", f"{number:064x}", UNI))
        await service.set_marks(op.SetMarks([("mark", {"taskhash": f"{3:064x}"})]))
        pages = [await service.removals.sweep(op.Sweep("job", "mark")) for _ in range(2)]
        await service.reports.map(op.Map("m", f"{0:064x}", UNI))  # carries the mark
        while not pages[-1].done:
            pages.append(await service.removals.sweep(op.Sweep("job", "mark")))
        service.removals.unwatch(op.Unwatch("job"))
        assert [page.rows for page in pages] == [2, 1, 2, 1, 0]
        assert counts(service)["mappings"] == 2


async def test_rows_that_are_skipped_are_walked_again_when_one_has_a_mapping_again() -> None:
    async with running() as service:
        third = "6" * 64
        for number, taskhash in enumerate((TASK, OTHER, third)):
            await report(service, taskhash, number + 1)
        await service.removals.sweep(op.Sweep("job", "nobody has this mark"))
        service.reports.skip(op.Skip("m", OUT, (2, OTHER), bare=False))
        page = op.Page("m", OUT, None, mapped=True)
        assert service.reports.page(page) == [(3, third)]
        assert indexed(service) == [TASK, OTHER, third], "a question for any row sees them all"
        assert await service.reports.map(op.Map("m", OTHER, UNI)) == (UNI, [OUT])
        assert await service.reports.map(op.Map("m", OTHER, UNI)) == UNI
        service.reports.unskip(op.Unskip([("m", OUT)]))
        assert service.reports.page(page) == [(1, TASK), (2, OTHER), (3, third)]
        service.reports.skip(op.Skip("m", OUT, (2, OTHER), bare=False))
        await lock(service, "7" * 64, 9, created=1)
        assert len(service.reports.page(page)) == 4, "an item that comes before the skipped ones is seen"


async def test_items_without_a_row_are_not_skipped_while_a_report_waits() -> None:
    """It may be about to store the row of one of them."""
    async with running() as service:
        await lock(service, TASK, 1)
        first = asyncio.ensure_future(lock(service, OTHER, 2))
        await asyncio.sleep(0)
        assert service.reports._locks.waiting(("m", OUT)) == 1
        service.reports.skip(op.Skip("m", OUT, (2, OTHER), bare=True))
        release(service, 1)
        assert await first == [(1, TASK), (2, OTHER)]
        service.reports.skip(op.Skip("m", OUT, (1, TASK), bare=True))
        assert service.reports.page(op.Page("m", OUT, None, mapped=True)) == [(2, OTHER)]
        release(service, 2)


@pytest.mark.parametrize("kind", [batch.GET, batch.EXISTS])
async def test_many_lookups_that_came_together_are_answered_in_parts(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "PART", 3)
    async with running() as service:
        for number, taskhash in enumerate((TASK, OTHER), 1):
            await do_round(service, step("report", taskhash, number, unihash=taskhash))
        digests = bytes.fromhex("".join((TASK, "5" * 64, OTHER, "6" * 64) * 5))
        frame = batch.encode_request(batch.Batch(kind, "m" if kind == batch.GET else "", digests))
        ticks = 0

        async def count() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        assert await service.lookup_in_parts(frame, b"head") == service.lookup(frame, b"head")
        counting.cancel()
        assert ticks >= 20 // 3


async def test_existence_in_many_methods_is_looked_up_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method takes as long, so that the work of a part is about the same."""
    monkeypatch.setattr(service_module, "PART", 64)
    sizes: list[int] = []
    async with running() as service:
        exists = service._table.exists

        def watched(some: Buffer) -> bytes:
            sizes.append(len(some) // 32)
            return exists(some)

        monkeypatch.setattr(service._table, "exists", watched)
        digests = bytes.fromhex("".join((TASK, "5" * 64) * 64))
        frame = batch.encode_request(batch.Batch(batch.EXISTS, "", digests))
        lookups = batch.encode_request(batch.Batch(batch.GET, "m", digests))
        for methods, part in ((1, 64), (4, 16), (5, 12), (16, 12)):
            for number in range(len(service._table.methods), methods):
                place = ("report", number + 1, number + 1, f"m{number}", TASK, OUT, TASK)
                await do_round(service, (*place, None, None, None, None, None, None))
            sizes.clear()
            assert service.is_long(frame) == (len(frame) > 2 * part * 32)
            answer = await service.lookup_in_parts(frame, b"")
            assert set(sizes[:-1]) == {part}
            assert sum(sizes) == 128
            assert answer == service.lookup(frame)
            assert service.is_long(lookups) == (len(lookups) > 2 * 64 * 32)
