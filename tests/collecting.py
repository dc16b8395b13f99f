"""Where collections are tried: servers that keep the same hashes, and a client for each of their coordinators."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from shardhash.client import AsyncClient, Client, create_async_client, create_client
from shardhash.errors import InvokeError
from shardhash.stores.postgresql.schema import migrate
from tests.coordinators import connect_async_to_each, connect_to_each
from tests.servers import ServerProcess
from tests.stores.postgresql_server import find_postgresql

COLUMNS = ("method", "taskhash", "unihash")
DATABASE = "two servers on a database"
LIMIT = 60.0
"""Seconds until a collection that cannot begin has failed."""


def places() -> list[Any]:
    """The kinds that there are."""
    database = pytest.param(DATABASE, marks=pytest.mark.skipif(find_postgresql() is None, reason="no PostgreSQL here"))
    return ["one coordinator", "three coordinators", database]


class Place:
    """Servers that keep the same hashes. `clients`: one of each coordinator, two if there is one only."""

    def __init__(self, servers: Sequence[ServerProcess]) -> None:
        self.servers = list(servers)
        self.clients: list[Client] = []
        self.connect_again()

    @classmethod
    @contextmanager
    def of(cls, kind: str, fixture: Callable[[str], Any], folder: Path) -> Iterator[Place]:
        """Servers of a kind, as they start without anything in them."""
        with ExitStack() as stack:
            if kind == DATABASE:
                url = fixture("postgresql").create_database()
                asyncio.run(migrate(url))
                environment = {"SHARDHASH_STORE": url, "SHARDHASH_ANSWER_LEASE": "1s"}
                both = [ServerProcess("--log", "WARNING", environment=environment) for _ in range(2)]
                yield stack.enter_context(cls([stack.enter_context(server) for server in both]))
                return
            more = ("--coordinators", "3") if kind == "three coordinators" else ()
            server = ServerProcess("--data", str(folder / "data"), "--workers", "2", "--sync", "off", *more)
            yield stack.enter_context(cls([stack.enter_context(server)]))

    @property
    def address(self) -> str:
        """The address of the first server."""
        return self.servers[0].address

    def _coordinators(self, server: ServerProcess) -> int:
        arguments = server.process.args
        assert isinstance(arguments, list)
        return int(arguments[arguments.index("--coordinators") + 1]) if "--coordinators" in arguments else 1

    def connect_again(self) -> None:
        """Connect to all."""
        self._close()
        for server in self.servers:
            many = self._coordinators(server)
            self.clients += (
                connect_to_each(server, server.address, many) if many > 1 else [create_client(server.address)]
            )
        if len(self.clients) == 1:
            self.clients.append(create_client(self.address))

    async def connect(self) -> list[AsyncClient]:
        """The same for asyncio."""
        clients: list[AsyncClient] = []
        for server in self.servers:
            many = self._coordinators(server)
            clients += (
                await connect_async_to_each(server, server.address, many)
                if many > 1
                else [await create_async_client(server.address)]
            )
        return clients if len(clients) > 1 else [*clients, await create_async_client(self.address)]

    def begin(self) -> str:
        """Begin a collection, whose name is the result, as soon as one whose client was killed is over."""
        until = time.monotonic() + LIMIT
        while True:
            try:
                name: str = secrets.choice(self.clients).collect("begin")["collection"]
            except InvokeError:
                assert time.monotonic() < until, "no other collection may begin"
                time.sleep(0.05)
            else:
                return name

    def _close(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class _Told:
    """What users know: each of these hashes is there, whatever is collected."""

    def __init__(self, clients: list[AsyncClient], method: str, chance: random.Random) -> None:
        self._clients = clients
        self._method = method
        self._chance = chance
        self.known: dict[str, str] = {}
        self.stop = False

    async def use(self, some: Sequence[str]) -> None:
        """Ask for and report these, and new ones, by any client, until it is enough."""
        while not self.stop:
            client, key = self._chance.choice(self._clients), self._chance.choice(some)
            what = self._chance.random()
            if what >= 0.9:
                key = f"{self._chance.getrandbits(256):064x}"
            before = self.known.get(key)
            if what < 0.6:
                answer = await client.get_unihash(self._method, key)
            elif what < 0.75:
                answer = key if await client.unihash_exists(key) else None
            else:
                answer = (await client.report_unihash(key, self._method, key, key))["unihash"]
            assert before is None or answer == before, f"{key} was there, and is not"
            if answer is not None:
                self.known[key] = answer
            await asyncio.sleep(0)


async def at_random(place: Place, method: str, rounds: int = 3, count: int = 400) -> None:
    """Collections while some hashes are used: these stay, and of all others everybody says at once that they are gone.

    Hashes are their own unihashes and outhashes here.
    """
    chance = random.Random(seed := secrets.randbits(32))
    print(f"seed {seed}")
    clients = await place.connect()
    for _ in range(rounds):
        keys = [f"{chance.getrandbits(256):064x}" for _ in range(count)]
        cold, hot, held, removed = set(keys[: count // 2]), keys[count // 2 :], keys[:10], keys[10:20]
        await clients[0].report_unihash_batch(
            [{"method": method, "taskhash": key, "outhash": key, "unihash": key} for key in keys]
        )
        for client in [*clients, *clients]:  # so that all have it at hand
            assert await client.get_unihash_batch([(method, key) for key in keys]) == keys
        collector = chance.choice(clients)
        name = (await collector.collect("begin"))["collection"]
        told = _Told(clients, method, chance)
        users = [asyncio.create_task(told.use(hot)) for _ in range(4)]
        await collector.collect("keep", name, unihashes=held)
        await collector.collect("choose", name)
        after: int | None = 0
        taken, shown = 0, list[dict[str, str]]()
        while after is not None:
            page = await collector.collect("show", name, after=after)
            after = page["next"]
            shown += [{column: task[column] for column in COLUMNS} for task in page["tasks"]]
        for start in range(0, len(shown), 60):
            mappings = shown[start : start + 60]
            taken += (await collector.collect("take", name, mappings=mappings))["mappings"]
            if removed:
                await chance.choice(clients).remove({"method": method, "taskhash": removed.pop()})
            for client in clients:
                gone = [mapping["taskhash"] for mapping in mappings if mapping["taskhash"] in cold]
                assert await client.get_unihash_batch([(method, key) for key in gone]) == [None] * len(gone)
        told.stop = True
        await asyncio.gather(*users)
        assert (await collector.collect("end", name))["mappings"] == taken > 0
        assert told.known
        for client in [*clients, *clients]:
            found = await client.get_unihash_batch([(method, key) for key in [*keys, *told.known]])
            there = {key for key, unihash in zip([*keys, *told.known], found, strict=True) if unihash is not None}
            assert there == {*held, *told.known}
    for client in clients:
        await client.close()
