"""Servers on one database, killed and cut off while builders report; and one held against the plain model.

Afterwards every acknowledged report is there, from whichever server it is asked, and nothing half done.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest

from shardhash.client import create_async_client
from shardhash.stores.postgresql.schema import migrate
from tests.servers import ServerProcess
from tests.stores.postgresql_server import PostgresqlServer
from tests.stores.test_postgresql_faults import CUT, opened
from tests.test_crash import AT_ONCE, Acknowledged, check, more_reports, report_until_cut
from tests.test_model import Served, run

pytestmark = pytest.mark.once

SERVERS = 3


class ServedOnDatabase(Served):
    """The same with a database, which outlives the server."""

    url: ClassVar[str]

    @classmethod
    def start(cls) -> None:
        environment = {"SHARDHASH_STORE": cls.url}
        cls.server = ServerProcess("--log", "WARNING", binds=["ws://127.0.0.1:0"], environment=environment)


@pytest.fixture
def served(postgresql: PostgresqlServer) -> Iterator[Any]:
    ServedOnDatabase.url = postgresql.create_database()
    asyncio.run(migrate(ServedOnDatabase.url))
    ServedOnDatabase.start()
    yield ServedOnDatabase
    assert ServedOnDatabase.server.stop() == 0


def test_a_server_on_a_database_is_the_model(served: Any) -> None:
    run(served, 10, 30)


@pytest.mark.soak
def test_a_server_on_a_database_is_the_model_for_long(served: Any) -> None:
    run(served, 200, 60)


async def one_round(
    servers: list[ServerProcess], seen: Acknowledged, trouble: Callable[[], None], chance: random.Random
) -> None:
    """Report through all servers, until some trouble and beyond."""
    outhashes = [secrets.token_hex(32) for _ in range(4)]
    stop = asyncio.Event()
    clients = [await create_async_client(server.address) for server in servers for _ in range(3)]
    tasks = [
        asyncio.create_task(report_until_cut(client, seen, outhashes, AT_ONCE[n % len(AT_ONCE)], stop))
        for n, client in enumerate(clients)
    ]
    await more_reports(seen, chance.randint(20, 200), tasks)
    await asyncio.to_thread(trouble)
    await more_reports(seen, 50, tasks)
    stop.set()
    await asyncio.gather(*tasks)
    for client in clients:
        await client.close()


def cut(postgresql: PostgresqlServer) -> None:
    postgresql.execute(CUT)


def run_rounds(postgresql: PostgresqlServer, rounds: int, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    url = postgresql.create_database()
    asyncio.run(migrate(url))
    seen = Acknowledged()

    def start() -> ServerProcess:
        return ServerProcess("--log", "WARNING", binds=["ws://127.0.0.1:0"], environment={"SHARDHASH_STORE": url})

    servers = [start() for _ in range(SERVERS)]
    try:
        for number in range(rounds):
            victim = chance.randrange(SERVERS)
            trouble = servers[victim].kill if number % 2 else partial(cut, postgresql)
            asyncio.run(one_round(servers, seen, trouble, chance))
            if servers[victim].process.poll() is not None:
                servers[victim] = start()
        for server in servers:
            asyncio.run(check(server.address, seen))
    finally:
        for server in servers:
            server.kill()


def test_kills_of_servers_on_one_database_lose_nothing(postgresql: PostgresqlServer) -> None:
    run_rounds(postgresql, 4, seed=secrets.randbits(32))


@pytest.mark.soak
def test_fifty_kills_of_servers_on_one_database_lose_nothing(postgresql: PostgresqlServer) -> None:
    run_rounds(postgresql, 50, seed=secrets.randbits(32))


async def test_a_server_that_was_killed_leaves_no_lock_behind(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_database()
    await migrate(url)
    with ServerProcess(binds=["ws://127.0.0.1:0"], environment={"SHARDHASH_STORE": url}) as server:
        async with await create_async_client(server.address) as client:
            outhash = secrets.token_hex(32)
            reporting = [
                asyncio.ensure_future(client.report_unihash(secrets.token_hex(32), "m", outhash, secrets.token_hex(32)))
                for _ in range(50)
            ]
            await asyncio.wait(reporting, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(server.kill)
            await asyncio.gather(*reporting, return_exceptions=True)
    async with opened(url) as store:
        row = await store.get_outhash("m", outhash, "", with_unihash=True)
        assert row is not None
        answer = await store.report_equiv("m", secrets.token_hex(32), bytes.fromhex(row["unihash"] or ""))
        assert answer.hex() == row["unihash"]


async def test_the_oldest_row_of_a_taskhash_is_the_one_that_a_batch_reports_first(served: Any) -> None:
    """Also where its outhash is another's, too, whose report came between."""
    first, second = "fe" * 32, "01" * 32
    rows = [("aa" * 32, second), ("bb" * 32, first), ("bb" * 32, second)]
    async with await create_async_client(served.server.address) as client:
        await client.report_unihash_batch(
            {"method": "m", "taskhash": task, "outhash": outhash, "unihash": "cc" * 32} for task, outhash in rows
        )
        row = await client.get_taskhash("m", "bb" * 32, True)
    assert row is not None
    assert row["outhash"] == first
