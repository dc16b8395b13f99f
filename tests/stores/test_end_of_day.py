"""At the end of a day answers at hand are forgotten: each is asked of its worker once a day."""

from __future__ import annotations

from shardhash.stores.end_of_day import DAY, EndOfDay
from shardhash.stores.sharded.router import Router
from shardhash.wire.rows import Report
from tests.stores.shards import running


async def test_an_end_is_told_once() -> None:
    now, told = [DAY * 20_000 + 5.0], list[float]()
    days = EndOfDay(lambda: told.append(now[0]), lambda: now[0])
    for later, so_often in ((10.0, 0), (DAY - 16, 0), (1.0, 1), (30.0, 1), (2 * DAY, 2), (-DAY, 3)):
        now[0] += later
        days.look()
        assert len(told) == so_often
    days.cancel()


async def test_an_answer_at_hand_is_asked_of_its_worker_again() -> None:
    async with running(2) as shards:
        router = Router([shard.link for shard in shards])
        taskhash = "01" * 32
        await router.report([Report("m", taskhash, "02" * 32, taskhash)])
        digest = bytes.fromhex(taskhash)
        table = shards[0].shard.table

        def put_aside() -> bool:
            taken = table.method("m").take_asked()
            table.method("m").clear_asked()
            return bool(taken)

        await router.lookup("m", digest)
        assert put_aside()
        await router.lookup("m", digest)
        assert not put_aside()
        router._end_of_day._day -= 1
        router._end_of_day.look()
        await router.lookup("m", digest)
        assert put_aside()
        await router.close()
