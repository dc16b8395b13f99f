"""Operations of a shard that meet: removals and reports of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shardhash.shard.recovery import MemoryShard
from shardhash.shard.service import Service
from shardhash.shard.writer import Writer

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


def fields(taskhash: str, created: int) -> list[object]:
    return ["m", taskhash, OUT, created, None, None, None, None, None]


async def report(service: Service, taskhash: str, created: int) -> None:
    """All of a report, as reports.py does it when the shard owns both hashes."""
    if isinstance(
        await service.op_report(LINK, "m", OUT, taskhash, created, created, fields(taskhash, created), None, UNI), str
    ):
        return
    await service.op_commit(fields(taskhash, created), None, UNI)
    service.op_release(LINK, "m", OUT, created)


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
        await service.op_commit(fields(TASK, 2), None, UNI)
        service.op_release(LINK, "m", OUT, 2)
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
            service.op_release(LINK, "m", OUT, 5)
        assert indexed(service) == [TASK]


async def test_a_row_that_a_report_maps_again_meanwhile_is_not_unused() -> None:
    async with running() as service:
        await report(service, TASK, 1)
        await service.op_remove("job", {"taskhash": TASK, "unihash": UNI})
        await report(service, TASK, 2)
        await service.op_remove("job", {"unihash": UNI})
        assert service.op_counts()["mappings"] == 0
        assert service.op_counts()["rows"] == 1
        committed = service.op_commit(fields(TASK, 3), None, UNI)  # decided in the group in which the removal is
        cleaned = await service.op_clean("job", FAR_FUTURE)
        assert await committed == UNI
        assert cleaned["count"] == 0
        assert service.op_counts()["rows"] == 1


async def test_a_row_from_elsewhere_takes_the_place_of_its_time() -> None:
    """The oldest row of an outhash is the oldest by `created`, not by when it came here."""
    async with running() as service:
        await report(service, TASK, 100)
        await service.op_turn(LINK, "m", OUT, OTHER, 50, 101)
        service.op_release(LINK, "m", OUT, 101)
        assert indexed(service) == [OTHER, TASK]
