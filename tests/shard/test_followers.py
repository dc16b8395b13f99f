"""Several coordinators at one worker: whose lock it is, when one of them dies, and which report was first."""

from __future__ import annotations

import asyncio
from typing import Any

from shardhash.link import operations as op
from shardhash.link.follower_operations import Drained, ReleaseFollower
from shardhash.shard.worker.service import Service
from tests.shard.test_service import LINK, OTHER, OUT, TASK, UNI, do_round, running, step

FIRST, SECOND = 1, 2


def lock(service: Service, link: object, taskhash: str, created: int) -> asyncio.Future[op.Granted]:
    """The lock of an outhash; its number is the same of all coordinators."""

    async def ask() -> op.Granted:
        return await service.reports.lock(link, op.Lock("m", OUT, [(created, taskhash)], 7))

    return asyncio.ensure_future(ask())


async def test_coordinators_name_their_locks_alike() -> None:
    async with running() as service:
        await lock(service, FIRST, TASK, 5)
        waits = lock(service, SECOND, OTHER, 6)
        await asyncio.sleep(0)
        await lock(service, FIRST, TASK, 5)  # asked again it keeps its place
        assert not waits.done()
        service.reports.release(SECOND, op.Release([("m", OUT, 8)]))
        service.reports.release(FIRST, op.Release([("m", OUT, 7)]))
        await waits


async def test_the_lock_of_a_follower_that_died_waits_until_all_workers_are_done_with_it() -> None:
    async with running() as service:
        service.followers.join(FIRST)
        await lock(service, FIRST, TASK, 5)
        waits = lock(service, LINK, OTHER, 6)
        drained = asyncio.ensure_future(service.followers.drained(Drained(FIRST)))
        await asyncio.sleep(0)
        assert not drained.done()
        service.followers.left(FIRST)
        await drained
        assert not waits.done()
        service.followers.release(ReleaseFollower(FIRST))
        assert await waits


async def test_what_a_follower_asked_before_its_end_is_written_before_it_counts_as_drained() -> None:
    async with running() as service:
        service.followers.join(FIRST)
        step: Any = ("commit", 1, 1, "m", TASK, OUT, UNI, *[None] * 6)
        service.reports.round(FIRST, op.Round([step]))
        service.followers.left(FIRST)
        await service.followers.drained(Drained(FIRST))
        assert service.unihashes(op.Unihashes("m", [TASK])) == [UNI]


async def test_a_follower_that_was_never_here_is_drained() -> None:
    async with running() as service:
        await service.followers.drained(Drained(FIRST))
        service.followers.release(ReleaseFollower(FIRST))


async def test_the_links_of_others_end_no_removal_and_no_lock() -> None:
    async with running() as service:
        service.removals.watch(op.Watch("job"))
        service.followers.join(FIRST)
        await lock(service, LINK, TASK, 5)
        service.followers.left(FIRST)
        service.followers.release(ReleaseFollower(FIRST))
        assert service.reports._locks.busy(("m", OUT))
        assert await service.removals.remove(op.RemoveMatching("job", {"method": "m"})) == op.Removed(0, [], done=True)


async def test_who_was_overtaken_is_told() -> None:
    """The report at 5 came after that at 9: it is the second one."""
    async with running() as service:
        assert (await lock(service, SECOND, OTHER, 9)).newest == 0
        service.reports.release(SECOND, op.Release([("m", OUT, 7)]))
        granted = await lock(service, FIRST, TASK, 5)
        assert (granted.page, granted.newest) == ([(5, TASK), (9, OTHER)], 9)
        assert (await lock(service, FIRST, OTHER, 10)).newest == 0


async def test_a_report_that_was_overtaken_goes_through_the_index() -> None:
    """One step would give it a place before the report that came first."""
    async with running() as service:
        service.followers.join(FIRST)
        assert await do_round(service, step("report", TASK, 9)) == [UNI]
        assert await do_round(service, step("report", OTHER, 5)) == [None]
        assert await do_round(service, step("report", OTHER, 10)) == [UNI]
