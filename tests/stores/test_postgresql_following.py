"""Servers on one database that answer from memory: what one changes is never answered wrongly by another."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from urllib.request import urlopen

import pytest

from shardhash.client import AsyncClient, InvokeError, create_async_client, create_client
from shardhash.errors import ServerFaultError, UnavailableError
from shardhash.stores.postgresql import following
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.wire.hashes import to_digest
from shardhash.wire.rows import Report
from tests.servers import ServerProcess
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql
from tests.stores.test_postgresql_faults import CUT
from tests.test_transcripts import ADMIN

M = "m"
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here"),
]


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    made = postgresql.create_database()
    asyncio.run(migrate(made))
    return made


@pytest.fixture
def own_database() -> Iterator[PostgresqlServer]:
    with PostgresqlServer(fsync=True) as server:
        yield server


@asynccontextmanager
async def opened(
    url: str, count: int = 1, *, lease: float = 60.0, replica: str | None = None, limit: float = 30.0
) -> AsyncIterator[list[PostgresqlStore]]:
    """Stores on one database, each of which follows the others already."""
    async with AsyncExitStack() as stack:
        stores = [PostgresqlStore(url, limit, lease=lease, replica=replica) for _ in range(count)]
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        for store in stores:
            await until(partial(followed, store))
        yield stores


def followed(store: PostgresqlStore) -> bool:
    return not store.lapsed


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that nobody can tell."""
    while not happened():  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.002)


def a_report(taskhash: str = "") -> Report:
    return Report(M, taskhash or secrets.token_hex(32), secrets.token_hex(32), secrets.token_hex(32))


async def ask(store: PostgresqlStore, taskhash: str) -> str | None:
    (unihash,) = (await store.lookup(M, to_digest(taskhash))).unihashes()
    return None if unihash is None else unihash.hex()


async def learn(stores: Sequence[PostgresqlStore], report: Report) -> None:
    """Have each store remember an answer."""
    for store in stores:
        while store.find(M, to_digest(report.taskhash)) is None:
            assert await ask(store, report.taskhash) == report.unihash
            await asyncio.sleep(0)


async def test_what_was_removed_at_one_server_is_at_hand_at_none(url: str) -> None:
    async with opened(url, 2) as (one, other):
        for removal in (remove_by_taskhash, remove_by_unihash, sweep):
            report = a_report()
            await one.report([report])
            await learn((one, other), report)
            await other.exists(to_digest(report.unihash))
            assert await removal(one, report) >= 1
            assert [await ask(store, report.taskhash) for store in (one, other)] == [None, None]
            assert await other.exists(to_digest(report.unihash)) == b"\0"
            again = a_report(report.taskhash)
            await one.report([again])
            assert [await ask(store, report.taskhash) for store in (one, other)] == [again.unihash] * 2


async def remove_by_taskhash(store: PostgresqlStore, report: Report) -> int:
    return await store.remove({"taskhash": report.taskhash})


async def remove_by_unihash(store: PostgresqlStore, report: Report) -> int:
    return await store.remove({"unihash": report.unihash})


async def sweep(store: PostgresqlStore, _report: Report) -> int:
    await store.gc_mark([("mark", {"unihash": secrets.token_hex(32)})])
    return await store.gc_sweep("mark")


async def test_answers_are_at_hand_again_after_a_removal(url: str) -> None:
    async with opened(url, 2) as stores:
        kept, gone = a_report(), a_report()
        await stores[0].report([kept, gone])
        await learn(stores, kept)
        await stores[0].remove({"taskhash": gone.taskhash})
        await learn(stores, kept)


async def test_what_is_unknown_is_asked_of_the_database_each_time(url: str) -> None:
    async with opened(url, 2) as (one, other):
        report = a_report()
        for _ in range(3):
            assert await ask(one, report.taskhash) is None
        await other.report([report])
        assert await ask(one, report.taskhash) == report.unihash


async def test_the_rest_of_a_lease_is_answered_from_memory_without_the_database(
    own_database: PostgresqlServer,
) -> None:
    url = own_database.create_database()
    await migrate(url)
    async with opened(url, lease=60) as (long,), opened(url, lease=1.0) as (short,):
        report = a_report()
        await long.report([report])
        await learn((long, short), report)
        await asyncio.to_thread(own_database.stop)
        assert await ask(long, report.taskhash) == report.unihash
        assert (await long.health()).database
        await until(lambda: short.lapsed)
        assert short.find(M, to_digest(report.taskhash)) is None
        assert (await short.health()).lease is False
        await asyncio.to_thread(own_database.start)
        await learn((long, short), report)


async def test_cut_connections_leave_no_wrong_answer(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url, 2, lease=1.0) as (one, other):
        for _ in range(4):
            report = a_report()
            await one.report([report])
            await learn((one, other), report)
            removing = asyncio.ensure_future(one.remove({"taskhash": report.taskhash}))
            await asyncio.to_thread(postgresql.execute, CUT)
            await removing
            assert [await ask(store, report.taskhash) for store in (one, other)] == [None, None]


async def test_a_server_whose_row_was_taken_makes_another_first(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url, 2) as (one, other):
        report = a_report()
        await one.report([report])
        await learn((one, other), report)
        name = url.rpartition("/")[2]
        postgresql.execute("delete from shardhash.follower", name)
        postgresql.execute("notify shardhash_changes", name)
        await until(lambda: postgresql.execute("select 1 from shardhash.follower", name))
        await one.remove({"taskhash": report.taskhash})
        assert [await ask(store, report.taskhash) for store in (one, other)] == [None, None]


async def test_a_removal_whose_server_died_is_ended_by_another(
    url: str, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STILL", 0.2)
    name = url.rpartition("/")[2]
    async with opened(url, lease=1.0) as (store,):
        report = a_report()
        await store.report([report])
        await learn([store], report)
        postgresql.execute("insert into shardhash.removal values ('dead')", name)
        postgresql.execute("insert into shardhash.change (kind) values ('removal')", name)
        await until(lambda: store.find(M, to_digest(report.taskhash)) is None)
        assert await ask(store, report.taskhash) == report.unihash
        await learn([store], report)
        assert postgresql.execute("select count(*) from shardhash.removal", name) == [(0,)]
        async with store._changes.removal() as begin:
            postgresql.execute("delete from shardhash.removal", name)
            with pytest.raises(UnavailableError, match="ask again"):
                await store._database.write(begin)


async def test_old_changes_are_forgotten(url: str, postgresql: PostgresqlServer) -> None:
    async with opened(url, 2) as (one, other):
        for _ in range(20):
            await one.remove({"taskhash": secrets.token_hex(32)})
            await other.set_entry("config", "x", 1)
        await one.remove({"taskhash": secrets.token_hex(32)})
        ((count,),) = postgresql.execute("select count(*) from shardhash.change", url.rpartition("/")[2])
        assert count < 10
    assert postgresql.execute("select count(*) from shardhash.follower", url.rpartition("/")[2]) == [(0,)]


async def test_a_user_of_the_database_without_the_rights_to_follow_is_told_once(
    url: str, postgresql: PostgresqlServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = url.rpartition("/")[2]
    postgresql.execute("drop role if exists looker")
    postgresql.execute("create role looker login password 's3cret-word'")
    for grant in ("usage on schema shardhash", "select on all tables in schema shardhash"):
        postgresql.execute(f"grant {grant} to looker", name)
    store = PostgresqlStore(url.replace("tester", "looker"), 30.0)
    await store.open()
    await until(lambda: "cannot be followed" in caplog.text)
    assert "grant this user all rights" in caplog.text
    assert await ask(store, secrets.token_hex(32)) is None
    assert store.lapsed
    await store.close()
    postgresql.execute("drop owned by looker", name)


# ------------------------------------------------------------------------------------------------------ a model


class Served:
    """A server that may be killed and started again, at another address."""

    def __init__(self, start: Callable[[], ServerProcess]) -> None:
        self._start = start
        self.process = start()

    def start_again(self) -> None:
        self.process.kill()
        self.process = self._start()

    def signal(self, number: signal.Signals) -> None:
        self.process.process.send_signal(number)


class Driver:
    """Changes one taskhash at a time, through any server, and asks them all after each change."""

    def __init__(self, servers: Sequence[Served], chance: random.Random) -> None:
        self._servers = servers
        self._chance = chance
        self._clients: dict[str, AsyncClient] = {}
        self.checked = 0

    async def drive(self, changes: int) -> None:
        taskhash, expected = secrets.token_hex(32), None
        for _ in range(changes):
            new = None if self._chance.random() < 0.4 else secrets.token_hex(32)
            try:
                expected = await self._change(self._chance.choice(self._servers), taskhash, expected, new)
            except (ConnectionError, InvokeError):  # it may be carried out now, or later: nobody knows
                taskhash, expected = secrets.token_hex(32), None
                continue
            for server in [*self._servers, *self._servers]:
                with suppress(ConnectionError):
                    found = await (await self._client(server)).get_unihash(M, taskhash)
                    assert found == expected, f"{found} is answered, {expected} is acknowledged"
                    self.checked += 1
        for client in self._clients.values():
            with suppress(ConnectionError):
                await client.close()

    async def _change(self, server: Served, taskhash: str, expected: str | None, new: str | None) -> str | None:
        client = await self._client(server)
        if new is None:
            await client.remove({"taskhash": taskhash})
            return None
        answer = await client.report_unihash(taskhash, M, secrets.token_hex(32), new)
        assert answer["unihash"] == (expected or new)
        return expected or new

    async def _client(self, server: Served) -> AsyncClient:
        address = server.process.address
        if address not in self._clients:
            self._clients[address] = await create_async_client(address)
        return self._clients[address]


async def run_model(start: Callable[[], ServerProcess], rounds: int, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    servers = [await asyncio.to_thread(Served, start) for _ in range(2)]
    checked = 0
    try:
        for number in range(rounds):
            drivers = [Driver(servers, chance) for _ in range(6)]
            changes = [asyncio.ensure_future(driver.drive(12)) for driver in drivers]
            await asyncio.sleep(chance.random())
            victim = servers[number // 2 % 2]
            if number % 2:
                await asyncio.to_thread(victim.start_again)
            else:
                victim.signal(signal.SIGSTOP)
                await asyncio.sleep(2 * chance.random())
                victim.signal(signal.SIGCONT)
            await asyncio.gather(*changes)
            checked += sum(driver.checked for driver in drivers)
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)
            await asyncio.to_thread(server.process.kill)
    assert checked > rounds * 20


def start_on(url: str) -> Callable[[], ServerProcess]:
    environment = {"SHARDHASH_STORE": url, "SHARDHASH_ANSWER_LEASE": "1s"}
    return lambda: ServerProcess("--log", "WARNING", binds=["ws://127.0.0.1:0"], environment=environment)


async def test_no_answer_after_an_acknowledged_removal_is_wrong(url: str) -> None:
    await run_model(start_on(url), 4, secrets.randbits(32))


@pytest.mark.soak
async def test_no_answer_after_an_acknowledged_removal_is_wrong_for_long(url: str) -> None:
    await run_model(start_on(url), 100, secrets.randbits(32))


async def test_servers_within_one_process_are_the_model(url: str) -> None:
    """Faster than with processes: thousands of changes and questions, each checked against what was acknowledged."""
    chance = random.Random(seed := secrets.randbits(32))
    print(f"seed {seed}")
    async with opened(url, 3, lease=1.0) as stores:

        async def one_key() -> None:
            taskhash = secrets.token_hex(32)
            expected: str | None = None
            for _ in range(60):
                store = chance.choice(stores)
                if chance.random() < 0.15:
                    await store.remove({"taskhash": taskhash})
                    expected = None
                elif expected is None:
                    report = a_report(taskhash)
                    await store.report([report])
                    expected = report.unihash
                for one in chance.choices(stores, k=4):
                    assert await ask(one, taskhash) == expected

        await asyncio.gather(*(one_key() for _ in range(8)))


# -------------------------------------------------------------------------------------------------- frozen servers


def lines_of(address: str) -> socket.socket:
    """A stock client's stream of lookups."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(b'OEHASHEQUIV 1.1\n\n{"get-stream": null}\n')
    assert connection.recv(100) == b'"ok"\n'
    return connection


def ask_line(connection: socket.socket, taskhash: str) -> bytes:
    connection.sendall(f"{M} {taskhash}\n".encode())
    return connection.makefile("rb").readline()


def test_a_frozen_server_answers_nothing_that_was_removed_meanwhile(
    url: str, start_server: Callable[..., ServerProcess]
) -> None:
    environment = {"SHARDHASH_STORE": url, "SHARDHASH_ANSWER_LEASE": "2s"}
    one, frozen = (
        start_server(*ADMIN, binds=["ws://127.0.0.1:0", "127.0.0.1:0,anon=@read"], environment=environment)
        for _ in range(2)
    )
    report = a_report()
    with (
        create_client(one.address, username="admin", password="password") as client,
        lines_of(frozen.addresses[1]) as stream,
    ):
        token = client.new_user("ann", ["@read"])["token"]
        client.report_unihash(report.taskhash, M, report.outhash, report.unihash)
        with create_client(frozen.address, username="ann", password=token) as ann:
            for _ in range(5):
                assert ask_line(stream, report.taskhash).strip() == report.unihash.encode()
                assert ann.get_unihash(M, report.taskhash) == report.unihash
            frozen.process.send_signal(signal.SIGSTOP)
            assert client.remove({"taskhash": report.taskhash})["count"] == 2
            client.set_user_perms("ann", ["@report"])
            stream.sendall(f"{M} {report.taskhash}\n".encode())
            frozen.process.send_signal(signal.SIGCONT)
            assert stream.makefile("rb").readline().strip() == b""
            with pytest.raises((InvokeError, ConnectionError)):
                ann.get_unihash(M, report.taskhash)


def test_whether_others_are_followed_is_shown(url: str, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(binds=["ws://127.0.0.1:0"], environment={"SHARDHASH_STORE": url})
    page = server.address.replace("ws://", "http://").rstrip("/")

    def read(path: str) -> str:
        with urlopen(page + path, timeout=60) as answer:
            return str(answer.read(), "utf-8")

    while "\nshardhash_lease 1.0" not in read("/metrics"):
        pass
    assert "other servers" in read("/readyz?verbose")


# -------------------------------------------------------------------------------------------------------- replicas


async def test_a_replica_answers_what_is_not_at_hand(
    own_database: PostgresqlServer, start_server: Callable[..., ServerProcess]
) -> None:
    url = own_database.create_database()
    await migrate(url)
    with PostgresqlServer(standby_of=own_database) as standby:
        replica = url.replace(f":{own_database.port}/", f":{standby.port}/")
        public = start_server(
            "--read-only",
            binds=["ws://127.0.0.1:0"],
            environment={"SHARDHASH_STORE": url, "SHARDHASH_READ_REPLICA": replica},
        )
        async with opened(url) as (primary,), await create_async_client(public.address) as client:
            first, late = a_report(), a_report()
            await primary.report([first])
            await reached(client, first.taskhash, first.unihash)
            assert await client.get_unihash(M, first.taskhash) == first.unihash
            standby.execute("select pg_wal_replay_pause()")
            await primary.report([late])
            assert await client.get_unihash(M, late.taskhash) is None, "the standby is behind"
            await primary.remove({"taskhash": first.taskhash})
            for _ in range(3):
                assert await client.get_unihash(M, first.taskhash) == first.unihash, "the standby is behind"
            standby.execute("select pg_wal_replay_resume()")
            await reached(client, late.taskhash, late.unihash)
            assert await client.get_unihash(M, first.taskhash) is None, "what it said while it was behind is forgotten"
            row = await client.get_taskhash(M, late.taskhash, True)
            assert row is not None
            await client.report_unihash("a" * 64, M, "b" * 64, "c" * 64)
            assert await ask(primary, "a" * 64) is None


async def reached(client: AsyncClient, taskhash: str, unihash: str) -> None:
    while await client.get_unihash(M, taskhash) != unihash:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.01)


async def test_reports_of_a_server_with_a_replica_go_to_the_database(own_database: PostgresqlServer) -> None:
    url = own_database.create_database()
    await migrate(url)
    with PostgresqlServer(standby_of=own_database) as standby:
        replica = url.replace(f":{own_database.port}/", f":{standby.port}/")
        async with opened(url, replica=replica, limit=2.0) as (store,):
            report = a_report()
            assert await store.report([report]) == [to_digest(report.unihash)]
            while await ask(store, report.taskhash) is None:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
            await store.remove({"taskhash": secrets.token_hex(32)})
            await learn([store], report)
            await asyncio.to_thread(standby.stop)
            assert (await store.health()).database.startswith("the replica: ")  # type: ignore[union-attr]
            assert await ask(store, report.taskhash) == report.unihash
            with pytest.raises(ServerFaultError):
                async with asyncio.timeout(60):
                    await store.lookup(M, to_digest(secrets.token_hex(32)))
            assert await store.report([a_report()])
