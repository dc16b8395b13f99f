"""Report order: which unihash a report gets, and what reports of one outhash share (report_order.py)."""

from __future__ import annotations

import asyncio

import pytest

from shardhash.errors import InternalError
from shardhash.link import operations as op
from shardhash.stores.answers import Answers
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.report_order import MOST_TOGETHER, Reports
from shardhash.wire.rows import Report
from tests.stores.shards import ShardHere, running

OUT = "ff" + "0" * 62
"""On the last shard."""


def hash_of(number: int, first: int = 0) -> str:
    return f"{first:02x}{number:062x}"


def report(number: int, unihash: int = 0, outhash: str = OUT, first: int = 0) -> Report:
    """A report of the task `number`, which lies on the slot `first`."""
    return Report("m", hash_of(number, first), outhash, hash_of(unihash or number, 0xAA))


def asked_by(shards: list[ShardHere], name: str) -> int:
    return sum(here.asked[name] for here in shards)


async def in_force(reports: Reports, *some: Report) -> list[str]:
    return [unihash.hex() for unihash in await reports.report(some)]


async def no_lock_is_held(shards: list[ShardHere]) -> None:
    for here in shards:
        await here.link.request(op.Counts())  # it is answered behind all that was asked before
        assert not here.link._locks
        assert not len(here.service.reports._locks)


def test_moments_are_apart_and_never_go_back() -> None:
    clock = Clock()
    first = clock(3)
    assert clock() >= first + 3


@pytest.mark.parametrize("count", [1, 2])
async def test_the_oldest_row_gives_its_unihash(count: int) -> None:
    async with running(count) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        assert await in_force(reports, report(1)) == [hash_of(1, 0xAA)]
        assert await in_force(reports, report(2), report(3, first=0xF0)) == [hash_of(1, 0xAA)] * 2
        assert await in_force(reports, report(1, unihash=9)) == [hash_of(1, 0xAA)]
        assert await in_force(reports, report(5, outhash=hash_of(7))) == [hash_of(5, 0xAA)]
        await reports.close()


async def test_reports_of_a_known_outhash_share_a_lock() -> None:
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        many = await asyncio.gather(*(in_force(reports, report(number)) for number in range(1, 101)))
        assert many == [[hash_of(1, 0xAA)]] * 100
        assert asked_by(shards, "lock") <= 2
        assert asked_by(shards, "equivalents") <= 4
        await no_lock_is_held(shards)
        await reports.close()


async def test_a_line_is_cut_so_that_no_worker_is_busy_for_long() -> None:
    async with running(1) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        count = 2 * MOST_TOGETHER + 10
        many = await in_force(reports, *(report(number) for number in range(1, count)))
        assert set(many) == {hash_of(1, 0xAA)}
        assert asked_by(shards, "lock") == 3
        await reports.close()


async def test_rows_without_a_mapping_are_walked_once() -> None:
    """After a sweep: whoever walked past them tells the index."""
    swept = 3 * op.LATER_PAGE
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        await in_force(reports, *(report(number) for number in range(1, swept)))
        for here in shards:
            await here.link.request(op.Sweep("job", "another mark"))
            here.asked.clear()
        new = swept + 1
        assert await in_force(reports, report(new)) == [hash_of(new, 0xAA)]
        walked = asked_by(shards, "page")
        assert walked >= 3
        for here in shards:
            here.asked.clear()
        assert await in_force(reports, report(new + 1)) == [hash_of(new, 0xAA)]
        assert asked_by(shards, "page") == 0
        await reports.close()


async def test_items_without_a_row_are_walked_once() -> None:
    """A removal leaves them where a report has the lock meanwhile."""
    removed = 3 * op.LATER_PAGE
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        await in_force(reports, *(report(number) for number in range(1, removed)))
        for here in shards:
            while not (await here.link.request(op.RemoveMatching("job", {"method": "m"}))).done:
                pass
            await here.link.request(op.Unwatch("job"))
            here.asked.clear()
        new = removed + 1
        assert await in_force(reports, report(new)) == [hash_of(new, 0xAA)]
        assert asked_by(shards, "page") >= 3
        for here in shards:
            here.asked.clear()
        assert await in_force(reports, report(new + 1)) == [hash_of(new, 0xAA)]
        assert asked_by(shards, "page") == 0
        # One of them is reported again: it is now the youngest.
        assert await in_force(reports, report(5)) == [hash_of(new, 0xAA)]
        assert await in_force(reports, report(new + 2)) == [hash_of(new, 0xAA)]
        await reports.close()


async def test_a_row_that_has_a_mapping_again_is_the_oldest_again() -> None:
    """What the index was told of rows without a mapping is forgotten before the report is acknowledged."""
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        await in_force(reports, *(report(number) for number in range(1, 41)))
        for here in shards:
            await here.link.request(op.Sweep("job", "another mark"))
        assert await in_force(reports, report(50)) == [hash_of(50, 0xAA)]
        revived = report(3, unihash=77, outhash=hash_of(8, 0xFE))  # the same task, another output
        assert await in_force(reports, revived) == [hash_of(77, 0xAA)]
        assert await in_force(reports, report(51)) == [hash_of(77, 0xAA)]
        await reports.close()


async def test_an_upstream_is_asked_once_for_an_outhash() -> None:
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        asked: list[Report] = []

        async def upstream(one: Report) -> bytes | None:
            asked.append(one)
            return bytes.fromhex(hash_of(99, 0xAA))

        answers = await reports.report([report(number) for number in range(1, 11)], upstream)
        assert {unihash.hex() for unihash in answers} == {hash_of(99, 0xAA)}
        assert asked == [report(1)]
        await reports.close()


async def test_a_bug_at_an_upstream_fails_its_report_and_frees_the_lock() -> None:
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)

        async def upstream(_: Report) -> bytes | None:
            raise ZeroDivisionError

        async def broken(_: Report) -> bytes | None:
            raise InternalError("a bug")

        with pytest.raises(ZeroDivisionError):
            await reports.report([report(1)], upstream)
        assert await in_force(reports, report(2)) == [hash_of(2, 0xAA)]
        with pytest.raises(InternalError, match="bug"):
            await reports.report([report(3, outhash=hash_of(9)), report(4, outhash=hash_of(9))], broken)
        assert await in_force(reports, report(5, outhash=hash_of(9))) == [hash_of(5, 0xAA)]
        await no_lock_is_held(shards)
        await reports.close()


async def test_a_bug_at_an_upstream_fails_no_other_report_of_its_line() -> None:
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)

        async def broken(_: Report) -> bytes | None:
            raise InternalError("a bug")

        first = reports.report([report(1)], broken)
        second = reports.report([report(2)], broken)
        third = reports.report([report(3)])
        fourth = reports.report([report(4)])
        results = await asyncio.gather(first, second, third, fourth, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [InternalError] * 2
        assert list(results[2:]) == [[bytes.fromhex(hash_of(3, 0xAA))]] * 2
        await no_lock_is_held(shards)
        await reports.close()


async def test_a_report_goes_on_when_its_caller_went_away() -> None:
    async with running(2) as shards:
        reports = Reports([here.link for here in shards], Clock(), Answers(0).written)
        gone = reports.report([report(1)])
        gone.cancel()
        assert await in_force(reports, report(2)) == [hash_of(1, 0xAA)]
        await reports.close()
