"""Collections on a database: what counts as used, and what ends a collection. tests/client/test_gc.py has the whole."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from shardhash.base.timestamps import DAY, to_iso
from shardhash.errors import InvokeError
from shardhash.stores.postgresql import asking, collector, following
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.seen import Seen
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.wire.hashes import to_digest
from shardhash.wire.imports import ImportedMapping
from shardhash.wire.rows import Report
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer, find_postgresql
from tests.stores.test_postgresql_following import M, a_report, ask, opened, until

pytestmark = pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here")
TODAY = asking.today()


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    made = postgresql.create_database()
    asyncio.run(migrate(made))
    return made


async def there() -> bool:
    return True


async def stored(store: PostgresqlStore, count: int) -> list[Report]:
    reports = [a_report() for _ in range(count)]
    await store.report(reports)
    return reports


async def known(store: PostgresqlStore, reports: Sequence[Report]) -> list[int]:
    return [number for number, report in enumerate(reports) if await ask(store, report.taskhash) is not None]


async def take_all(store: PostgresqlStore, name: str) -> int:
    """Choose, and take all of it, a few at a time; how many went."""
    chosen = await store.collector.choose(name)
    place: int | None = 0
    shown, taken = [], 0
    while place is not None:
        page = await store.collector.show(name, place, 3)
        shown += [(task["method"], task["taskhash"], task["unihash"]) for task in page.tasks]
        place = page.next
    assert len(shown) == chosen.mappings
    for start in range(0, len(shown), 4):
        taken += (await store.collector.take(name, shown[start : start + 4])).mappings
    return taken


def age(postgresql: PostgresqlServer, url: str, days: int = 100) -> None:
    """All that is there was reported and asked for long ago, and all since is known."""
    name = url.rpartition("/")[2]
    postgresql.execute(f"update shardhash.outrow set created = created - {days}::bigint * 86400000000", name)
    postgresql.execute(f"update shardhash.asked set day = day - {days}", name)
    postgresql.execute(f"update shardhash.asked_from set day = day - {days}", name)


def days(postgresql: PostgresqlServer, url: str) -> dict[str, int]:
    rows = postgresql.execute("select taskhash, day from shardhash.asked", url.rpartition("/")[2])
    return {taskhash.hex() if len(taskhash) == 32 else taskhash[1:].decode(): day for taskhash, day in rows}


# --------------------------------------------------------------------------------------------------------- days


async def test_each_way_to_ask_is_noted_once_a_day(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url) as (store,):
        reports = await stored(store, 6)
        await store.report_equiv(M, "short", to_digest("ab" * 32))
        await store.take_mappings([ImportedMapping(M, "imported", "cd" * 32)])
        assert days(postgresql, url) == {"short": TODAY, "imported": TODAY}, "no row says when"
        age(postgresql, url)
        assert await ask(store, reports[0].taskhash) is not None
        assert await store.exists(to_digest(reports[1].unihash)) == b"\1"
        assert await store.get_row(M, reports[2].taskhash) is not None
        assert await store.get_outhash(M, reports[3].outhash, "", with_unihash=True) is not None
        assert await store.get_outhash(M, reports[5].outhash, "", with_unihash=False) is not None
        assert await store.lookup_keys(M, ["short", "unknown"]) == [to_digest("ab" * 32), None]
        await store.report([reports[4]])
        await store._asking.note(rest=0)
        noted = days(postgresql, url)
        assert noted.pop("short") == TODAY
        assert noted.pop("imported") == TODAY - 100
        assert noted == {report.taskhash: TODAY for report in reports[:5]}
        age(postgresql, url, 1)
        assert await ask(store, reports[0].taskhash) is not None, "from memory"
        await store._asking.note(rest=0)
        assert days(postgresql, url)[reports[0].taskhash] == TODAY - 1
        assert store._end_of_day is not None
        store._end_of_day._day -= 1
        store._end_of_day.look()
        assert await ask(store, reports[0].taskhash) is not None
        (found,) = (await store.explorer.find({"taskhash": reports[0].taskhash}, 1)).rows
        assert found["asked"] == to_iso(TODAY * DAY)[:10]
        assert days(postgresql, url)[reports[0].taskhash] == TODAY
        await store.remove({"taskhash": reports[0].taskhash})
        await store.quarantine.begin({"taskhash": reports[1].taskhash}, {"reason": "", "where": {}})
        assert not {reports[0].taskhash, reports[1].taskhash} & days(postgresql, url).keys()


async def test_large_questions_are_noted_and_only_once(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url) as (store,):
        reports = await stored(store, 200)
        unknown = secrets.token_bytes(32)
        digests = b"".join(to_digest(report.taskhash) for report in reports[:100])
        await store.lookup(M, digests + unknown)
        await store.exists(unknown + b"".join(to_digest(report.unihash) for report in reports[100:]))
        await store._asking.note(rest=0)
        assert days(postgresql, url) == {report.taskhash: TODAY for report in reports}
        store._answers.forget()
        await store.lookup(M, digests)
        await store.lookup(M, b"".join(to_digest(report.taskhash) for report in reports))
        again = store._asking._aside[M] - {to_digest(one.taskhash) for one in reports[100:]}
        assert len(again) < 20, "hardly any has lost its place to another"
        store._day_ended()
        await store.lookup(M, digests)
        assert len(store._asking._aside[M]) == 200


def test_what_was_seen_is_new_but_once() -> None:
    seen, digests = Seen(), secrets.token_bytes(32 * 1000)
    assert seen.new("m", digests, None) == digests
    assert seen.new("other", digests, None) == digests
    others = secrets.token_bytes(32 * 10)
    again = seen.new("m", digests + others, None)
    assert again.endswith(others)
    assert len(again) < 32 * 100, "hardly any has lost its place to another"
    more = secrets.token_bytes(32 * 4)
    assert seen.new("m", more, bytes([1, 0, 0, 1])) == more[:32] + more[-32:]
    seen.forget()
    assert seen.new("m", digests, None) == digests


async def test_what_is_put_aside_is_noted_when_the_store_closes(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url) as (store,):
        (report,) = await stored(store, 1)
        await ask(store, report.taskhash)
    assert days(postgresql, url) == {report.taskhash: TODAY}


async def test_more_than_can_be_noted_makes_everything_used(
    url: str, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MOST", 3)
    monkeypatch.setattr(asking, "TOO_MANY", 5)
    async with opened(url) as (store,):
        reports = await stored(store, 8)
        age(postgresql, url)
        for report in reports[:4]:
            await ask(store, report.taskhash)
        await until(lambda: len(days(postgresql, url)) == 4)
        await store.lookup(M, b"".join(to_digest(report.taskhash) for report in reports))
        name = url.rpartition("/")[2]
        await until(lambda: postgresql.execute("select day from shardhash.asked_from", name) == [(TODAY,)])


# --------------------------------------------------------------------------------------------------- collections


async def test_what_was_used_lately_is_kept_and_nothing_else(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url, 2) as (store, other):
        reports = await stored(store, 12)
        age(postgresql, url)
        reports += await stored(other, 1)
        await ask(store, reports[0].taskhash)
        await store._asking.note(rest=0)
        await store.collector.begin("first", there)
        assert await store.collector.keep_used("first", TODAY - 200) == 13, "it is not known what was asked for then"
        await store.collector.end("first")
        assert await other.collector.begin("second", there) == 13
        assert await other.collector.keep_used("second", TODAY - 90) == 2
        assert await other.collector.keep("second", to_digest(reports[1].unihash)) == 1
        assert await ask(store, reports[2].taskhash) is not None
        chosen = await other.collector.choose("second")
        assert (chosen.mappings, chosen.rows, chosen.kept, chosen.recipes) == (9, 9, 4, [(None, 9, 9)])
        assert await take_all(other, "second") == 9
        await other.collector.end("second")
        for one in (store, other):
            assert await known(one, reports) == [0, 1, 2, 12]
        for table in ("collection", "kept", "doomed"):
            assert postgresql.execute(f"select count(*) from shardhash.{table}", url.rpartition("/")[2]) == [(0,)]


async def test_a_server_that_follows_nothing_keeps_what_it_answers(url: str) -> None:
    """It has no lease, so that nobody waits for it, and the database tells it."""
    async with opened(url, 2) as (store, cut_off):
        reports = await stored(store, 6)
        assert await known(cut_off, reports) == list(range(6))
        await cut_off._follower.close()
        await store.collector.begin("name", there)
        chosen = await store.collector.choose("name")
        assert chosen.mappings == 6
        assert await ask(cut_off, reports[3].taskhash) is not None
        assert await cut_off.lookup_keys(M, [to_digest(reports[4].taskhash)]) == [to_digest(reports[4].unihash)]
        assert await cut_off.exists(to_digest(reports[5].unihash)) == b"\1"
        assert await take_all(store, "name") == 3
        assert await known(cut_off, reports) == [3, 4, 5]


async def test_a_database_that_cannot_keep_ends_the_collection_and_answers(
    url: str, postgresql: PostgresqlServer
) -> None:
    name = url.rpartition("/")[2]
    postgresql.execute("drop role if exists stinter")
    postgresql.execute(f"create role stinter login password '{PASSWORD}'")
    for change in (
        "grant usage on schema shardhash to stinter",
        "grant all on all tables in schema shardhash to stinter",
        "revoke insert on shardhash.kept from stinter",
    ):
        postgresql.execute(change, name)
    async with opened(url) as (store,), opened(url.replace("tester", "stinter")) as (poor,):
        reports = await stored(store, 2)
        await store.collector.begin("name", there)
        assert (await store.collector.choose("name")).mappings == 2
        assert await ask(poor, reports[0].taskhash) == reports[0].unihash
        with pytest.raises(InvokeError, match="is over"):
            await store.collector.show("name", 0, 10)
    postgresql.execute("drop owned by stinter", name)


async def test_pages_hold_no_more_than_some_text(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "FULL_PAGE", 1000)
    async with opened(url) as (store,):
        await store.report([a_report()._replace(outhash_siginfo="x" * 400, PN="zlib") for _ in range(7)])
        await store.collector.begin("name", there)
        assert (await store.collector.choose("name")).recipes == [("zlib", 7, 7)]
        sizes: list[int] = []
        place: int | None = 0
        while place is not None:
            page = await store.collector.show("name", place, 100)
            sizes.append(len(page.tasks))
            place = page.next
            for task in page.tasks:
                assert task["rows"][0]["outhash_siginfo"] == "x" * 400
        assert sizes == [3, 3, 1]


async def test_one_whose_client_is_gone_is_taken_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LEASE", 0.5)
    monkeypatch.setattr(collector, "BEAT", 0.05)
    gone = False

    async def goes_on() -> bool:
        return not gone

    async with opened(url, 2) as (store, other):
        await stored(store, 2)
        await store.collector.begin("first", goes_on)
        await asyncio.sleep(0.6)
        with pytest.raises(InvokeError, match="under way at another server"):
            await other.collector.begin("second", there)
        gone = True
        while True:
            try:
                await other.collector.begin("second", there)
            except InvokeError:
                await asyncio.sleep(0.05)
            else:
                break
        for step in (partial(store.collector.choose, "first"), partial(store.collector.show, "first", 0, 10)):
            with pytest.raises(InvokeError, match="is over"):
                await step()
        assert await take_all(other, "second") == 2


async def test_one_of_a_server_that_stops_is_over_at_once(url: str) -> None:
    async with opened(url) as (other,):
        async with opened(url) as (store,):
            await store.collector.begin("first", there)
        await other.collector.begin("second", there)


async def test_one_of_a_dead_server_is_ended_by_the_others(
    url: str, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STILL", 0.2)
    async with opened(url, 1, lease=0.5) as (other,):
        name = url.rpartition("/")[2]
        postgresql.execute("insert into shardhash.collection (name) values ('dead')", name)
        await until(lambda: other._follower.collecting)
        await until(lambda: not postgresql.execute("select from shardhash.collection", name))


@pytest.fixture
def replicated() -> Iterator[tuple[PostgresqlServer, str, str]]:
    """A server, the URL of a database there, and that of its replica."""
    with PostgresqlServer(fsync=True) as server:
        url = server.create_database()
        asyncio.run(migrate(url))
        with PostgresqlServer(standby_of=server) as standby:
            yield server, url, url.replace(f":{server.port}/", f":{standby.port}/")


async def test_what_a_replica_answers_is_kept_and_noted_on_the_primary_whose_crash_ends_a_collection(
    replicated: tuple[PostgresqlServer, str, str],
) -> None:
    server, url, replica = replicated
    async with opened(url) as (store,), opened(url, replica=replica, limit=3.0) as (public,):
        reports = await stored(store, 6)
        while await known(public, reports) != list(range(6)):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        await public._asking.note(rest=0)
        assert days(server, url) == {report.taskhash: TODAY for report in reports}
        await store.collector.begin("name", there)
        await ask(public, reports[0].taskhash)
        await public.exists(to_digest(reports[1].unihash))
        await public.get_row(M, reports[2].taskhash)
        await public.lookup_keys(M, [to_digest(reports[3].taskhash)])
        assert await take_all(store, "name") == 2
        assert await known(store, reports) == [0, 1, 2, 3]
        await store.collector.end("name")
        await store.collector.begin("other", there)
        await store.collector.choose("other")
        shown = (await store.collector.show("other", 0, 10)).tasks
        mappings = [(task["method"], task["taskhash"], task["unihash"]) for task in shown]
        assert (await store.collector.take("other", mappings[:1])).mappings == 1
        await asyncio.to_thread(server.stop, "immediate")
        public._follower._until = 0.0  # its lease is over
        assert public.lapsed
        left = next(report for report in reports[:4] if report.taskhash != mappings[0][1])
        assert await public.exists(to_digest(left.unihash)) == b"\1", "the replica answers without the primary"
        await asyncio.to_thread(server.start)
        with pytest.raises(InvokeError, match="is over"):
            await store.collector.take("other", mappings[1:])
        assert len(await known(store, reports)) == 3
