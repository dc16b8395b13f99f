"""The PostgreSQL store in trouble: connections cut, a database that stops, crashes, fails over, refuses or is slow.

What was acknowledged is there afterwards, and what is told is told in words.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from shardhash.client import create_client
from shardhash.errors import InvokeError, ServerFaultError, StorageError, UnavailableError
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.wire.hashes import to_digest
from shardhash.wire.rows import Report
from tests.servers import ServerProcess
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer, find_postgresql

M = "m"
CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'shardhash'"
pytestmark = [
    pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here"),
    pytest.mark.once,
]


@pytest.fixture
def own_database() -> Iterator[PostgresqlServer]:
    """A server of one test's own, which it may stop."""
    with PostgresqlServer(fsync=True) as server:
        yield server


@asynccontextmanager
async def opened(url: str, limit: float = 60.0) -> AsyncIterator[PostgresqlStore]:
    store = PostgresqlStore(url, limit)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def a_report(outhash: str = "") -> Report:
    taskhash = secrets.token_hex(32)
    return Report(M, taskhash, outhash or secrets.token_hex(32), taskhash, PN="p")


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that nobody can tell."""
    while not await asyncio.to_thread(happened):  # noqa: ASYNC110  # the database tells nobody
        await asyncio.sleep(0.01)


class Load:
    """Reports from several tasks over several stores; what was acknowledged of them, taskhash to unihash."""

    def __init__(self, stores: Sequence[PostgresqlStore], tasks: int = 6) -> None:
        self._stores = stores
        self._tasks = tasks
        self._stop = asyncio.Event()
        self._outhashes = [secrets.token_hex(32) for _ in range(5)]
        self.acknowledged: dict[str, str] = {}
        self.outhashes: dict[str, str] = {}
        self.refused = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as group:
            for number in range(self._tasks):
                group.create_task(self._report(self._stores[number % len(self._stores)], number))
            try:
                yield self
            finally:
                self._stop.set()

    async def more(self, count: int) -> None:
        """Wait until so many more reports were acknowledged."""
        target = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= target)

    async def _report(self, store: PostgresqlStore, number: int) -> None:
        while not self._stop.is_set():
            some = [a_report(secrets.choice(self._outhashes) if n % 3 == 0 else "") for n in range(1 + 4 * number)]
            try:
                unihashes = await store.report(some)
            except ServerFaultError:
                self.refused += 1
                continue
            for report, unihash in zip(some, unihashes, strict=True):
                self.acknowledged[report.taskhash] = unihash.hex()
                self.outhashes[report.taskhash] = report.outhash

    async def check(self, store: PostgresqlStore) -> None:
        """Everything that was acknowledged is there, and reports of one outhash agree."""
        taskhashes = list(self.acknowledged)
        found = await store.lookup(M, b"".join(map(to_digest, taskhashes)))
        assert found.unihashes() == [to_digest(unihash) for unihash in self.acknowledged.values()]
        for outhash in self._outhashes:
            assert len({u for t, u in self.acknowledged.items() if self.outhashes[t] == outhash}) <= 1
        for taskhash in taskhashes[-20:]:
            row = await store.get_row(M, taskhash)
            assert row is not None
            assert (row["outhash"], row["PN"]) == (self.outhashes[taskhash], "p")


async def test_cut_connections_are_no_error(postgresql: PostgresqlServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    url = postgresql.create_database()
    await migrate(url)
    async with opened(url) as one, opened(url) as other:
        load = Load([one, other])
        async with load.running():
            for _ in range(30):
                await load.more(15)
                postgresql.execute(CUT)
        assert load.refused == 0
        await load.check(one)
    assert "trying again" in caplog.text
    assert PASSWORD not in caplog.text


async def test_transactions_that_meet_are_tried_again(postgresql: PostgresqlServer) -> None:
    """The same taskhashes with other outhashes, in batches of any order, through two servers."""
    url = postgresql.create_database()
    await migrate(url)
    taskhashes = [secrets.token_hex(32) for _ in range(40)]

    def batch() -> list[Report]:
        shuffled = sorted(taskhashes, key=lambda _: secrets.randbelow(1000))
        return [Report(M, t, secrets.token_hex(32), secrets.token_hex(32)) for t in shuffled]

    async with opened(url) as one, opened(url) as other:
        for _ in range(10):
            batches = [batch() for _ in range(6)]
            stores = [one, other] * 3
            answers = await asyncio.gather(*(s.report(b) for s, b in zip(stores, batches, strict=True)))
            agreed = [
                {r.taskhash: u for r, u in zip(b, unihashes, strict=True)}
                for b, unihashes in zip(batches, answers, strict=True)
            ]
            assert all(one_answer == agreed[0] for one_answer in agreed)
            await one.remove({"method": M})


async def test_a_crash_of_the_database_loses_nothing(own_database: PostgresqlServer) -> None:
    url = own_database.create_database()
    await migrate(url)
    async with opened(url) as store:
        load = Load([store])
        async with load.running():
            for how in ("immediate", "fast"):
                await load.more(200)
                await asyncio.to_thread(own_database.stop, how)
                await asyncio.to_thread(own_database.start)
                await load.more(50)
        assert load.refused == 0
        await load.check(store)


async def test_failover_to_a_synchronous_standby_loses_nothing(own_database: PostgresqlServer) -> None:
    url = own_database.create_database()
    await migrate(url)
    with PostgresqlServer(standby_of=own_database, fsync=True) as standby:
        own_database.execute("alter system set synchronous_standby_names = '*'")
        own_database.execute("select pg_reload_conf()")
        both = url.replace(f":{own_database.port}/", f":{own_database.port},127.0.0.1:{standby.port}/")
        async with opened(both) as one, opened(both) as other:
            load = Load([one, other])
            async with load.running():
                await load.more(300)
                await asyncio.to_thread(own_database.stop, "immediate")
                await asyncio.to_thread(standby.promote)
                await load.more(100)
            assert load.refused == 0
            await load.check(one)


async def test_a_commit_that_the_standby_did_not_confirm_is_not_acknowledged(own_database: PostgresqlServer) -> None:
    """PostgreSQL reports success with a warning when someone cancels the wait for it."""
    url = own_database.create_database()
    await migrate(url)
    own_database.execute("alter system set synchronous_standby_names = 'one_that_is_away'")
    own_database.execute("select pg_reload_conf()")
    waiting = "from pg_stat_activity where wait_event = 'SyncRep'"
    async with opened(url) as store:
        # The method is made in a transaction of its own, which waits, too.
        reporting = asyncio.ensure_future(store.report([a_report()]))
        for _ in range(4):
            await until(lambda: own_database.execute(f"select 1 {waiting}"))
            await asyncio.to_thread(own_database.execute, f"select pg_cancel_backend(pid) {waiting}")
            assert not reporting.done()
        own_database.execute("alter system reset synchronous_standby_names")
        own_database.execute("select pg_reload_conf()")
        assert len(await reporting) == 1


async def test_a_server_that_stops_leaves_commits_alone(own_database: PostgresqlServer) -> None:
    url = own_database.create_database()
    await migrate(url)
    waiting = "select 1 from pg_stat_activity where wait_event = 'SyncRep'"
    async with opened(url) as store:
        await store.report([a_report()])
        own_database.execute("alter system set synchronous_standby_names = 'one_that_is_away'")
        own_database.execute("select pg_reload_conf()")
        reporting = asyncio.ensure_future(store.report([a_report()]))
        await until(lambda: own_database.execute(waiting))
    with suppress(asyncio.CancelledError, ServerFaultError):
        await reporting
    assert await asyncio.to_thread(own_database.execute, waiting), "it was not cancelled, and nobody sees it"


async def test_a_database_that_refuses_to_store_answers_lookups(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_database()
    await migrate(url)
    name = url.rpartition("/")[2]
    postgresql.execute("drop role if exists reader")
    postgresql.execute(f"create role reader login password '{PASSWORD}'")
    postgresql.execute("grant usage on schema shardhash to reader", name)
    postgresql.execute("grant select on all tables in schema shardhash to reader", name)
    async with opened(url) as store, opened(url.replace("tester", "reader")) as reader:
        known = a_report()
        await store.report([known])
        with pytest.raises(StorageError, match="permission denied"):
            await reader.report([a_report()])
        found = await reader.lookup(M, to_digest(known.taskhash))
        assert found.unihashes() == [to_digest(known.unihash)]
    postgresql.execute("drop owned by reader", name)


async def test_a_slow_database_is_told(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_database()
    await migrate(url)
    async with opened(url, limit=0.3) as store:
        known = a_report()
        await store.report([known])
        with psycopg.connect(url) as blocking:
            blocking.execute("lock table shardhash.mapping in access exclusive mode")
            for asked in (store.lookup(M, to_digest(known.taskhash)), store.report([a_report()])):
                with pytest.raises(UnavailableError, match=r"did not (answer|store a report) within 0.3 s"):
                    await asked
        found = await store.lookup(M, to_digest(known.taskhash))
        assert found.unihashes() == [to_digest(known.unihash)]


def test_without_its_database_a_server_closes_connections_and_says_why(
    own_database: PostgresqlServer,
    start_server: Callable[..., ServerProcess],
) -> None:
    url = own_database.create_database()
    asyncio.run(migrate(url))
    server = start_server(
        "--shard-timeout", "1", binds=["ws://127.0.0.1:0", "127.0.0.1:0"], environment={"SHARDHASH_STORE": url}
    )
    known = a_report()
    report = {"method": M, "taskhash": secrets.token_hex(32), "outhash": known.outhash, "unihash": known.unihash}
    with create_client(server.addresses[0]) as client:
        client.report_unihash(known.taskhash, M, known.outhash, known.unihash)
        own_database.stop()
        for asked in ({"get": {"method": M, "taskhash": known.taskhash}}, {"report": report}):
            assert ask_as_a_build(server.addresses[1], asked) == b"", "closed without a word, so that the build goes on"
        with pytest.raises(InvokeError, match="cannot be reached now; the server's log says why"):
            client.get_unihash(M, known.taskhash)
        own_database.start()
    with create_client(server.addresses[0]) as client:
        assert client.get_unihash(M, known.taskhash) == known.unihash
    assert server.stop() == 0
    log = server.log.read()
    assert "trying again for 1 s" in log
    assert "Connection refused" in log
    assert "gave up" in log
    assert "this is a bug" not in log
    assert "Traceback" not in log
    assert PASSWORD not in log


def ask_as_a_build(address: str, request: object) -> bytes:
    """What a client without headers is answered over TCP."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"OEHASHEQUIV 1.1\n\n" + json.dumps(request).encode() + b"\n")
        connection.settimeout(60)
        return connection.makefile("rb").readline()
