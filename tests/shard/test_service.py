"""Operations of a shard that meet: removals and reports of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shardhash.errors import StorageError
from shardhash.link import operations
from shardhash.shard.storage.recovery import MemoryShard
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer

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


def step(kind: str, taskhash: str, number: int, outhash: str = OUT, unihash: str = UNI) -> list[Any]:
    """A step of a report, made at the time `number`."""
    place = [kind, number, number, "m", taskhash, outhash]
    return place if kind == operations.INDEX else [*place, unihash, None, None, None, None, None, None]


async def do_round(service: Service, *steps: list[Any]) -> list[Any]:
    answers = service.op_round(LINK, list(steps))
    return answers if isinstance(answers, list) else await answers


async def report(service: Service, taskhash: str, number: int) -> None:
    """All of a report, as reports.py does it when the shard owns both hashes."""
    if await do_round(service, step(operations.REPORT, taskhash, number)) == [None]:
        await service.op_turn(LINK, "m", OUT, taskhash, number, number)
        await do_round(service, step(operations.COMMIT, taskhash, number))
        service.op_release(LINK, [("m", OUT, number)])


def indexed(service: Service) -> list[str]:
    return [taskhash for _, taskhash in service.op_page("m", OUT, "", None)]


async def test_the_index_item_of_a_removed_row_goes() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.op_watch("job")
        gone = await service.op_remove("job", {"outhash": OUT})
        assert gone == {"count": 1, "unindex": [("m", [(OUT, TASK)])], "done": True}
        await service.op_unindex("job", "m", [(OUT, TASK)])
        assert indexed(service) == []


async def test_a_row_that_came_back_during_its_removal_keeps_its_index_item() -> None:
    """Without it, later reports of the outhash would never find this one: equivalence lost."""
    async with running() as service:
        await report(service, TASK, 1)
        service.op_watch("job")
        await service.op_remove("job", {"outhash": OUT})
        await report(service, TASK, 2)
        await service.op_unindex("job", "m", [(OUT, TASK)])
        assert indexed(service) == [TASK]
        assert service.op_equivalents("m", OUT, [TASK], True) == [UNI]


async def test_a_report_that_had_its_turn_before_the_removal_keeps_its_index_item() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        await service.op_turn(LINK, "m", OUT, TASK, 2, 2)
        service.op_watch("job")
        await service.op_remove("job", {"outhash": OUT})
        await do_round(service, step(operations.COMMIT, TASK, 2))
        service.op_release(LINK, [("m", OUT, 2)])
        await service.op_unindex("job", "m", [(OUT, TASK)])
        assert indexed(service) == [TASK]


async def test_a_removal_whose_watch_was_lost_leaves_index_items_which_do_no_harm() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.op_watch("job")
        await service.op_remove("job", {"outhash": OUT})
        service.drop_link(LINK)
        await service.op_unindex("job", "m", [(OUT, TASK)])
        assert indexed(service) == [TASK]
        assert service.op_equivalents("m", OUT, [TASK], False) == [None]


async def test_a_turn_that_comes_while_items_go_has_its_item() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        service.op_watch("job")
        await service.op_remove("job", {"outhash": OUT})
        unindex = asyncio.create_task(service.op_unindex("job", "m", [(OUT, TASK)]))
        while not unindex.done():
            await asyncio.sleep(0)
            await service.op_turn(LINK, "m", OUT, TASK, 5, 5)
            service.op_release(LINK, [("m", OUT, 5)])
        assert indexed(service) == [TASK]


async def test_a_row_that_a_report_maps_again_meanwhile_is_not_unused() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        await service.op_remove("job", {"taskhash": TASK, "unihash": UNI})
        await report(service, TASK, 2)
        await service.op_remove("job", {"unihash": UNI})
        assert service.op_counts()["mappings"] == 0
        assert service.op_counts()["rows"] == 1
        committed = service.op_round(LINK, [step(operations.COMMIT, TASK, 3)])  # decided in the group of the removal
        assert isinstance(committed, asyncio.Future)
        cleaned = await service.op_clean("job", FAR_FUTURE)
        assert await committed == [UNI]
        assert cleaned["count"] == 0
        assert service.op_counts()["rows"] == 1


async def test_a_row_from_elsewhere_takes_the_place_of_its_time() -> None:
    """The oldest row of an outhash is the oldest by `created`, not by when it came here."""
    async with running() as service:
        await report(service, TASK, 100)
        await service.op_turn(LINK, "m", OUT, OTHER, 50, 101)
        service.op_release(LINK, [("m", OUT, 101)])
        assert indexed(service) == [OTHER, TASK]


async def test_reports_of_new_outhashes_are_one_write() -> None:
    async with running() as service:
        steps = [step(operations.REPORT, f"{n:064}", n, outhash=f"{n + 100:064}", unihash=f"{n:064}") for n in range(5)]
        assert await do_round(service, *steps) == [f"{n:064}" for n in range(5)]
        assert service.op_counts() == {"mappings": 5, "rows": 5, "index": 5, "users": 0, "config": 0}


async def test_of_two_steps_for_one_outhash_the_second_has_to_wait() -> None:
    async with running() as service:
        first, second = step(operations.REPORT, TASK, 1), step(operations.REPORT, OTHER, 2, unihash=OTHER)
        assert await do_round(service, first, second) == [UNI, None]
        assert service.op_unihashes("m", [TASK, OTHER]) == [UNI, None]
        assert await do_round(service, second) == [None]  # the index holds the other one now
        assert await service.op_turn(LINK, "m", OUT, OTHER, 2, 2) == [(1, TASK)]


async def test_a_round_asked_again_does_nothing_twice() -> None:
    """The worker may have died between the write and the answer."""
    async with running() as service:
        steps = [step(operations.REPORT, TASK, 1), step(operations.INDEX, OTHER, 2, outhash="5" * 64)]
        assert await do_round(service, *steps) == [UNI, True]
        counts = service.op_counts()
        service.drop_link(LINK)
        assert await do_round(service, *steps) == [None, None]
        assert await service.op_turn(LINK, "m", OUT, TASK, 1, 1) == []
        assert await do_round(service, step(operations.COMMIT, TASK, 1)) == [UNI]
        assert service.op_counts() == counts


async def test_an_index_step_holds_the_turn_until_it_is_released() -> None:
    async with running() as service:
        assert await do_round(service, step(operations.INDEX, TASK, 1)) == [True]
        waits = asyncio.ensure_future(service.op_turn(LINK, "m", OUT, OTHER, 2, 2))
        assert await do_round(service, step(operations.COMMIT, TASK, 1)) == [UNI]
        assert not waits.done()
        service.op_release(LINK, [("m", OUT, 1)])
        assert await waits == [(1, TASK)]


async def test_a_round_that_the_disk_refuses_gives_all_its_turns_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_shard: MemoryShard, _text: str) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(MemoryShard, "put_siginfo", refuse)
    async with running() as service:
        steps = [step(operations.INDEX, OTHER, 1, outhash="5" * 64), step(operations.REPORT, TASK, 2)]
        steps[1][-1] = "a text"
        with pytest.raises(StorageError):
            await do_round(service, *steps)
        assert service.op_counts()["index"] == 0
        steps[1][-1] = None
        assert await do_round(service, *steps) == [True, UNI]
