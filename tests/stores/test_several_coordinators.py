"""Routers of several coordinators over the same workers: reports keep one order, and times follow it."""

from __future__ import annotations

import asyncio

from shardhash.link import operations as op
from shardhash.stores.answers import Answers
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.report_order import Reports
from tests.stores.shards import running
from tests.stores.test_report_lines import hash_of, in_force, report


class SlowClock(Clock):
    """The clock of a coordinator whose reports are always later in coming than in time."""

    def __call__(self, count: int = 1, after: int = 0) -> int:
        return max(after + 1, super().__call__(count) - 60_000_000)


async def test_times_follow_the_order_of_the_locks() -> None:
    async with running(2) as shards:
        links = [here.link for here in shards]
        first = Reports(links, Clock(), Answers(0).written, alone=False)
        late = Reports(links, SlowClock(), Answers(0).written, alone=False)
        assert await in_force(first, report(1)) == [hash_of(1, 0xAA)]
        assert await in_force(late, report(2, first=0xF0), report(3)) == [hash_of(1, 0xAA)] * 2
        assert await late.oldest_row("m", report(1).outhash, mapped=True) == report(1).taskhash
        items = await first.link_of(report(1).outhash).request(op.Page("m", report(1).outhash, None, mapped=False))
        assert [taskhash for _, taskhash in items] == [
            report(1).taskhash,
            report(2, first=0xF0).taskhash,
            report(3).taskhash,
        ]
        await first.close()
        await late.close()


async def test_many_reports_of_two_coordinators_get_one_unihash() -> None:
    async with running(2) as shards:
        links = [here.link for here in shards]
        coordinators = [Reports(links, clock, Answers(0).written, alone=False) for clock in (Clock(), SlowClock())]
        answers = await asyncio.gather(
            *(in_force(coordinators[number % 2], report(number)) for number in range(1, 101))
        )
        assert len({unihash for answer in answers for unihash in answer}) == 1
        for coordinator in coordinators:
            await coordinator.close()
