"""Quarantine over two real shards in this process and on a database: what is set aside, what equates, the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from shardhash.base.turns import with_rests
from shardhash.errors import InvokeError, StorageError
from shardhash.link import pages
from shardhash.stores import quarantines
from shardhash.stores.interface import Store
from shardhash.stores.postgresql import quarantine as postgresql_quarantine
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.stores.sharded import quarantine
from shardhash.stores.sharded.router import Router
from shardhash.wire.rows import Report
from tests.stores.postgresql_server import PostgresqlServer
from tests.stores.shards import ShardHere, running

M = "m"
NOTE = {"where": {}, "reason": "poisoned", "user": "me", "time": "2026-11-28T00:00:00+00:00"}


def digits(number: int) -> str:
    """Digits that land on either shard, by the number's lowest bit."""
    return f"{'00' if number % 2 else 'ff'}{number:062x}"


@pytest.fixture
async def shards() -> AsyncIterator[list[ShardHere]]:
    async with running(2) as shards:
        yield shards


@pytest.fixture
async def router(shards: list[ShardHere]) -> AsyncIterator[Router]:
    """See `store`."""
    router = Router([shard.link for shard in shards])
    await fill(router)
    yield router
    await router.close()


@pytest.fixture
async def database(postgresql: PostgresqlServer) -> AsyncIterator[PostgresqlStore]:
    """See `store`."""
    url = postgresql.create_database()
    await migrate(url)
    store = PostgresqlStore(url, 30.0)
    await store.open()
    await fill(store)
    yield store
    await store.close()


@pytest.fixture(params=["router", "database"])
def store(request: pytest.FixtureRequest) -> Store:
    """zlib 1 and its twin 2 share outhash 101; zlib 3 and busybox 4 share 100; busybox 5 has 105."""
    found: Store = request.getfixturevalue(request.param)
    return found


async def fill(store: Store) -> None:
    for number, outhash, recipe in (
        (1, 101, "zlib"),
        (2, 101, "zlib"),
        (3, 100, "zlib"),
        (4, 100, "bb"),
        (5, 105, "bb"),
    ):
        await report(store, number, outhash, recipe)


async def report(store: Store, number: int, outhash: int, recipe: str = "zlib") -> str:
    """The unihash in force."""
    row = Report(M, digits(number), digits(outhash), digits(number), "me", recipe, "1", "r0", "do_x", "text")
    (unihash,) = await store.report([row])
    return unihash.hex()


async def known(store: Store, *numbers: int) -> list[int]:
    """Those of the tasks that have a mapping."""
    found = await store.lookup(M, b"".join(bytes.fromhex(digits(number)) for number in numbers))
    return [number for number, unihash in zip(numbers, found.unihashes(), strict=True) if unihash is not None]


async def test_what_is_chosen_answers_nothing_and_comes_back(store: Store) -> None:
    assert await known(store, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]  # at hand, too
    entry = await store.quarantine.begin({"PN": "zlib"}, NOTE)
    assert (entry["rows"], entry["mappings"], entry["outhashes"], entry["shared"]) == (3, 3, 1, 1)
    assert await known(store, 1, 2, 3, 4, 5) == [4, 5]
    assert (await store.exists(bytes.fromhex(digits(1)))) == b"\0"
    assert [one["name"] for one in await store.quarantine.entries()] == [entry["name"]]
    released = await store.quarantine.release(entry["name"])
    assert released["restored"] == 3
    assert await known(store, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    assert (await store.lookup(M, bytes.fromhex(digits(2)))).digests == bytes.fromhex(digits(1))
    assert await store.quarantine.entries() == []


async def test_a_barred_outhash_equates_nothing_until_its_release(store: Store) -> None:
    entry = await store.quarantine.begin({"outhash": digits(101), "method": M}, NOTE)
    assert entry["outhashes"] == 1
    assert await store.get_outhash(M, digits(101), digits(1), True) is None
    made = [Report(M, digits(number), digits(101), digits(number)) for number in (1, 6, 7, 8)]
    unihashes = await store.report(made)  # together, in one line
    assert [unihash.hex() for unihash in unihashes] == [digits(number) for number in (1, 6, 7, 8)]
    released = await store.quarantine.release(entry["name"])
    assert released["restored"] == 1  # 1 was made again meanwhile
    assert await report(store, 9, 101) == digits(1)


async def test_an_outhash_of_other_tasks_goes_on_equating(store: Store) -> None:
    await store.quarantine.begin({"PN": "zlib"}, NOTE)
    assert await report(store, 10, 100, "new") == digits(3)  # by busybox 4, which had it from 3


async def test_a_preview_does_nothing(store: Store) -> None:
    chosen = await store.quarantine.choose({"PN": "zlib"})
    assert (chosen.rows, chosen.mappings, chosen.outhashes, chosen.shared) == (3, 3, 1, 1)
    assert await known(store, 1, 2, 3) == [1, 2, 3]
    assert await store.quarantine.entries() == []


async def test_a_start_goes_on_with_what_was_half_done(router: Router, shards: list[ShardHere]) -> None:
    entry = await router.quarantine.begin({"outhash": digits(101), "method": M}, NOTE)
    await router.report_equiv(M, digits(1), bytes.fromhex(digits(1)))  # as if it had never been taken
    await router.set_entry("quarantine", entry["name"], entry | {"done": False})
    await router.set_entry("quarantine-part", "orphan.0", {"mappings": [], "outhashes": [[M, digits(105)]]})
    again = Router([shard.link for shard in shards])
    await again.reconcile()
    assert await known(again, 1, 2) == []
    assert (await again.quarantine.entries())[0]["done"]
    assert await again.list_entries("quarantine-part") == {
        f"{entry['name']}.0": (await again.list_entries("quarantine-part"))[f"{entry['name']}.0"]
    }
    assert await report(again, 6, 101) == digits(6)  # it is barred here, too
    assert await report(again, 7, 105) == digits(5)  # what never counted is not
    await again.close()


async def test_two_quarantines_of_one_outhash(store: Store) -> None:
    first = await store.quarantine.begin({"outhash": digits(105), "method": M}, NOTE)
    second = await store.quarantine.begin({"outhash": digits(105), "method": M}, NOTE)
    assert second["mappings"] == 0
    await store.quarantine.release(first["name"])
    assert await known(store, 5) == [5]
    assert await report(store, 6, 105) == digits(6)
    await store.quarantine.release(second["name"])
    assert await report(store, 7, 105) == digits(5)


async def test_more_than_fits_is_refused_and_parts_hold_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    module = quarantine if isinstance(store, Router) else postgresql_quarantine
    monkeypatch.setattr(module, "MOST", 2)
    with pytest.raises(InvokeError, match="choose fewer"):
        await store.quarantine.begin({"PN": "*"}, NOTE)
    assert await known(store, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(module, "MOST", 100)
    monkeypatch.setattr(quarantines, "PART", 2)
    entry = await store.quarantine.begin({"PN": "*"}, NOTE)
    assert (entry["parts"], entry["mappings"]) == (3, 5)
    assert await known(store, 1, 2, 3, 4, 5) == []
    assert (await store.quarantine.release(entry["name"]))["restored"] == 5


async def test_a_release_of_nothing_is_refused(store: Store) -> None:
    with pytest.raises(InvokeError, match="there is no quarantine 'x'"):
        await store.quarantine.release("x")


async def test_discard_removes_just_what_is_named(store: Store) -> None:
    assert await known(store, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    count = await store.quarantine.discard([(M, digits(1), digits(101)), (M, digits(4), digits(100)), (M, "x", "y")])
    assert count == 4
    assert await known(store, 1, 2, 3, 4, 5) == [2, 3, 5]
    assert (await store.explorer.find({"taskhash": digits(1)}, 10)).count == 0
    assert (await store.usage())["outhashes_v2"] == 3
    assert await report(store, 6, 101) == digits(1)  # by 2


async def test_no_upstream_is_asked_for_a_barred_outhash(store: Store) -> None:
    await store.quarantine.begin({"outhash": digits(105), "method": M}, NOTE)
    asked: list[str] = []

    async def upstream(report: Report) -> bytes:
        asked.append(report.outhash)
        return bytes.fromhex(digits(77))

    rows = [Report(M, digits(number), digits(outhash), digits(number)) for number, outhash in ((6, 105), (7, 200))]
    assert [unihash.hex() for unihash in await store.report(rows, upstream)] == [digits(6), digits(77)]
    assert asked == [digits(200)]


async def test_two_servers_on_a_database_agree(database: PostgresqlStore) -> None:
    other = PostgresqlStore(database._url, 30.0)
    await other.open()
    assert await known(other, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    entry = await database.quarantine.begin({"outhash": digits(101), "method": M}, NOTE)
    assert await known(other, 1, 2, 3, 4, 5) == [3, 4, 5]
    assert await report(other, 6, 101) == digits(6)
    assert [one["name"] for one in await other.quarantine.entries()] == [entry["name"]]
    assert (await other.quarantine.release(entry["name"]))["restored"] == 2
    assert await report(database, 7, 101) == digits(1)
    await other.close()


async def test_outhashes_of_thousands_of_rows_are_asked_about_in_parts(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more tasks are begun in one go than there are outhashes of a part."""
    monkeypatch.setattr(quarantine, "AT_ONCE", 4)
    monkeypatch.setattr(pages, "FULL", 100)
    for number in range(200, 240):
        await report(router, number, number)
    before, most = len(asyncio.all_tasks()), 0
    choosing = asyncio.ensure_future(router.quarantine.choose({"PN": "zlib"}))
    while not choosing.done():
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
    assert (await choosing).outhashes == 41
    assert most <= before + 20


async def test_what_was_chosen_and_what_is_kept_travels_in_pages(
    router: Router, shards: list[ShardHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No side encodes or decodes more at one time; others run in between."""
    monkeypatch.setattr(pages, "FULL", 1000)
    for number in range(200, 240):
        await report(router, number, number)
    sizes: list[int] = []

    def counted(page: bytes) -> Any:
        sizes.append(len(page))
        return orjson.loads(page)

    monkeypatch.setattr(pages, "loads", counted)
    entry = await router.quarantine.begin({"PN": "zlib"}, NOTE)
    assert (entry["rows"], entry["outhashes"]) == (43, 41)
    for number in range(5):
        await router.set_entry("user", f"user{number}", {"permissions": ["@read" * 100]})
    assert sorted(await router.list_entries("user")) == [f"user{number}" for number in range(5)]
    again = Router([shard.link for shard in shards])
    await again.reconcile()
    assert await report(again, 300, 239) == digits(300)  # it is barred here, too
    assert len(sizes) > 43 * 250 // 2000
    assert max(sizes) <= 1500
    assert (await again.quarantine.release(entry["name"]))["restored"] == 43


async def test_many_barred_outhashes_are_gone_through_some_at_a_time(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "LOOKED_AT_ONCE", 3)
    for number in range(200, 230):
        await report(router, number, number)
    entry = await router.quarantine.begin({"PN": "zlib"}, NOTE)
    looked: list[int] = []

    def counted(items: Any, at_once: int) -> Any:
        looked.append(at_once)
        return with_rests(items, at_once)

    monkeypatch.setattr(quarantine, "with_rests", counted)
    other = await router.quarantine.begin({"PN": "bb"}, NOTE)
    assert len(router.barred) == 32
    assert (await router.quarantine.release(entry["name"]))["restored"] == 33
    assert set(router.barred) == {(M, digits(105))}
    assert looked == [3, 3]
    await router.quarantine.release(other["name"])
    assert not router.barred
    assert await report(router, 300, 229) == digits(229)


async def test_all_are_barred_before_anything_is_kept_and_none_if_it_cannot_be(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantines, "PART", 1)
    before = await router.quarantine.begin({"outhash": digits(105), "method": M}, NOTE)
    store, barred = router.quarantine._set, []

    async def full_after_two(kind: str, name: str, value: Any) -> None:
        barred.append(len(router.barred))
        if value is not None and len(barred) > 2:
            raise StorageError("the disk is full")
        await store(kind, name, value)

    monkeypatch.setattr(router.quarantine, "_set", full_after_two)
    with pytest.raises(StorageError, match="full"):
        await router.quarantine.begin({"PN": "*"}, NOTE)
    assert barred[:3] == [3, 3, 3]
    assert set(router.barred) == {(M, digits(105))}, "what was barred before stays"
    assert [one["name"] for one in await router.quarantine.entries()] == [before["name"]]
    assert list(await router.list_entries("quarantine-part")) == [f"{before['name']}.0"]
    assert await known(router, 1, 2, 3, 4) == [1, 2, 3, 4]
    assert await report(router, 6, 101) == digits(1)
