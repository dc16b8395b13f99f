"""The router: which shard is asked what, and how their answers are put together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from shardhash.base.entry_kinds import GC_MARK
from shardhash.errors import InvokeError, UnavailableError
from shardhash.link import operations as op
from shardhash.shard.state import selection
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker import removals
from shardhash.stores.interface import CollectionStatus
from shardhash.stores.sharded.router import Router
from shardhash.wire.hashes import to_key
from shardhash.wire.imports import ImportedRow
from shardhash.wire.rows import Report
from tests.stores.shards import ShardHere, running

SHARDS = 3


def hash_of(number: int) -> str:
    """Hashes of all slots."""
    return f"{number * 37 % 256:02x}{number:062x}"


def report(number: int) -> Report:
    return Report("m", hash_of(number), hash_of(1000 + number), hash_of(2000 + number))


@pytest.fixture
async def shards() -> AsyncIterator[list[ShardHere]]:
    async with running(SHARDS) as some:
        yield some


@pytest.fixture
async def router(shards: list[ShardHere]) -> AsyncIterator[Router]:
    router = Router([here.link for here in shards])
    await router.reconcile()
    yield router
    await router.close()


async def test_a_key_lies_on_one_shard(router: Router, shards: list[ShardHere]) -> None:
    await router.report([report(number) for number in range(30)])
    for number in range(30):
        owners = [here.link.shard for here in shards if here.shard.table.unihash("m", to_key(hash_of(number)))]
        assert len(owners) == 1
    assert [here.shard.table.counts()["mappings"] > 0 for here in shards] == [True] * SHARDS
    assert await router.usage() == {"unihashes_v3": 30, "outhashes_v2": 30, "users": 0, "config": 0}


async def test_taskhashes_of_any_form_are_answered_in_order(router: Router) -> None:
    for name in ("a", "b", "c"):
        await router.report_equiv("m", name, bytes.fromhex(hash_of(ord(name))))
    asked = ["c", "unknown", "a", "b", "a"]
    found = await router.lookup_keys("m", [to_key(name) for name in asked])
    assert [None if one is None else one.hex() for one in found] == [
        None if name == "unknown" else hash_of(ord(name)) for name in asked
    ]


async def test_a_removal_takes_rows_mappings_and_index_items(router: Router, shards: list[ShardHere]) -> None:
    await router.report([report(number) for number in range(20)])
    assert await router.remove({"method": "m"}) == 40
    assert [here.shard.table.counts() for here in shards] == [
        {"mappings": 0, "rows": 0, "index": 0, "users": 0, "config": 0}
    ] * SHARDS
    assert all(not here.service.removals._removals for here in shards)


async def test_a_removal_that_fails_half_way_is_forgotten_everywhere(router: Router, shards: list[ShardHere]) -> None:
    await router.report([report(number) for number in range(20)])
    shards[1].link.give_up("it is on fire")
    with pytest.raises(UnavailableError):
        await router.remove({"method": "m"})
    for here in (shards[0], shards[2]):
        await here.link.request(op.Counts())
        assert not here.service.removals._removals


async def test_a_report_during_a_removal_keeps_its_index_item(router: Router, shards: list[ShardHere]) -> None:
    """The row is back before the items of the removed rows are deleted."""
    await router.report([report(1)])
    owner = router._reports.link_of(report(1).outhash)
    here = shards[owner.shard]
    unindex = here.service.operations[op.Unindex]
    began = asyncio.Event()
    go_on = asyncio.Event()

    async def later(asked: op.Unindex) -> None:
        began.set()
        await go_on.wait()
        await unindex(asked)

    here.service.operations[op.Unindex] = later
    removing = asyncio.create_task(router.remove({"method": "m"}))
    await began.wait()
    await router.report([report(1)])
    go_on.set()
    await removing
    assert here.shard.table.indexed("m", to_key(report(1).outhash), to_key(report(1).taskhash))


async def test_a_collection_keeps_what_is_marked_on_every_shard(router: Router, shards: list[ShardHere]) -> None:
    await router.report([report(number) for number in range(30)])
    marks = [("M", {"unihash": hash_of(2000 + number)}) for number in range(10)]
    assert await router.gc_mark(marks) == [1] * 10
    await router.report([report(50)])
    assert await router.gc_status() == CollectionStatus(11, 20, "M")
    with pytest.raises(InvokeError, match="not the current mark"):
        await router.gc_sweep("N")
    assert await router.gc_sweep("M") == 20
    assert [here.shard.table.current_mark() for here in shards] == [""] * SHARDS


async def test_a_start_gives_every_shard_the_mark_of_the_first(router: Router, shards: list[ShardHere]) -> None:
    await shards[0].link.request(op.SetEntry("config", GC_MARK, "M"))
    await shards[2].link.request(op.SetEntry("config", GC_MARK, "old"))
    await router.reconcile()
    assert [here.shard.table.current_mark() for here in shards] == ["M"] * SHARDS


async def test_entries_lie_on_the_first_shard(router: Router, shards: list[ShardHere]) -> None:
    await router.set_entry("user", "me", {"permissions": ["@read"]})
    assert await router.list_entries("user") == {"me": {"permissions": ["@read"]}}
    assert [here.shard.table.counts()["users"] for here in shards] == [1, 0, 0]
    await router.set_entry("user", "me", None)
    assert await router.get_entry("user", "me") is None


async def test_a_shard_that_is_away_fails_what_needs_all(router: Router, shards: list[ShardHere]) -> None:
    shards[2].link.give_up("it is on fire")
    with pytest.raises(UnavailableError, match="shard 2 is not available: it is on fire"):
        await router.usage()
    assert await router.get_entry("user", "me") is None


class HungShard(MemoryShard):
    """A shard on a disk whose fsync hangs until `answers`."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def sync(self) -> None:
        """Hang."""
        self.answers.wait()


async def test_while_an_fsync_hangs_lookups_go_on_and_reports_get_their_limit() -> None:
    disk = HungShard()
    async with ShardHere(0, disk, limit=0.1).run() as here:
        router = Router([here.link])
        try:
            with pytest.raises(UnavailableError, match="did not answer within"):
                await router.report([report(1)])
            assert await router.lookup_keys("m", [to_key(hash_of(1))]) == [None]
        finally:
            disk.answers.set()
        (unihash,) = await router.report([report(1)])
        assert unihash.hex() == report(1).unihash
        await router.close()


async def test_a_removal_whose_caller_leaves_ends_between_two_parts(
    router: Router, shards: list[ShardHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "UNINDEX_PAGE", 1)
    monkeypatch.setattr(selection, "ROW_SLICE", 1)
    monkeypatch.setattr(removals, "SLICE", 1)
    await router.report([report(number) for number in range(60)])
    removing = asyncio.create_task(router.remove({"method": "m"}))
    while not any(here.asked["remove"] for here in shards):  # noqa: ASYNC110  # a step of the loop at a time
        await asyncio.sleep(0)
    removing.cancel()
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await removing
    await asyncio.gather(*router._removals._tasks)
    for here in shards:
        await here.link.request(op.Counts())
        assert not here.service.removals._removals, "it is over everywhere"
    assert sum(here.asked["remove"] for here in shards) < 60
    assert (await router.usage())["outhashes_v2"] > 0


async def test_a_sweep_ends_when_its_client_leaves_and_can_be_asked_again(
    router: Router, shards: list[ShardHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "PAGE_TIME", -1.0)
    monkeypatch.setattr(selection, "SLICE", 1)
    await router.report([report(number) for number in range(300)])
    await router.gc_mark([("mark", {"unihash": hash_of(2000)})])
    sweep = asyncio.ensure_future(router.gc_sweep("mark"))
    while sum(here.asked["sweep"] for here in shards) < 30:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0)
    sweep.cancel()
    status = await router.gc_status()
    assert status.mark == "mark"
    assert 1 < status.keep + status.remove < 300
    gone = await router.gc_sweep("mark")
    assert 0 < gone < 299
    assert (await router.gc_status()).mark is None
    assert (await router.usage())["unihashes_v3"] == 1
    assert sum(len(here.service.removals._removals) for here in shards) == 0


async def test_marks_of_one_who_leaves_end_after_a_page(router: Router, shards: list[ShardHere]) -> None:
    await router.report([report(number) for number in range(30)])
    marks = [(f"mark {number % 2}", {"method": "m"}) for number in range(2000)]
    marking = asyncio.ensure_future(router.gc_mark(marks))
    while not shards[0].asked["marks"]:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0)
    marking.cancel()
    assert await router.gc_mark([("mine", {"unihash": hash_of(2000)})] * 3) == [1, 1, 1]
    assert (await router.gc_status()).mark == "mine"
    assert shards[0].asked["marks"] <= 10


async def test_rows_of_an_import_are_taken_by_a_few_tasks(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.stores.sharded.imports.AT_ONCE", 4)
    texts = [f"{number:064x}" for number in range(60)]
    created = 1_700_000_000_000_000
    rows = [ImportedRow("m", text, text, created, None, "zlib", None, None, None, None) for text in texts]
    before, most = len(asyncio.all_tasks()), 0
    taking = asyncio.ensure_future(router.take_rows(rows))
    while not taking.done():
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
    assert await taking == ["new"] * 60
    assert most <= before + 20
    assert await router.take_rows(rows) == ["known"] * 60
