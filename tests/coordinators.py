"""Servers with several coordinators: their processes, and connections to each of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil

from shardhash.client import AsyncClient, Client, create_async_client, create_client
from tests.servers import ServerProcess

SEVERAL = ("--coordinators", "3")
LIMIT = 60.0
PAUSE = 0.1
FEW = 6
"""Connections until each coordinator has one, mostly: who has none accepts first. One that was killed is late."""


def followers(server: ServerProcess) -> list[psutil.Process]:
    """The further coordinators of a server, as they are now."""
    return server.children("shardhash.server.follower_process")


def wait_for_others(server: ServerProcess, killed: list[psutil.Process], count: int = 2) -> None:
    """Until so many followers run, none of these among them."""
    until = time.monotonic() + LIMIT
    while len([one for one in followers(server) if one.pid not in {dead.pid for dead in killed}]) < count:
        assert time.monotonic() < until, "no other coordinator was started"
        time.sleep(0.02)


def connections_of(server: ServerProcess) -> Counter[int]:
    """Established connections over TCP by process."""
    pids = [server.process.pid, *(one.pid for one in followers(server))]
    return Counter({pid: sum(c.status == "ESTABLISHED" for c in psutil.Process(pid).net_connections()) for pid in pids})


def connect_to_each(server: ServerProcess, address: str, coordinators: int = 3) -> list[Client]:
    """A connection to each coordinator, that of the server itself first."""
    accepted: list[tuple[int, Client]] = []
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        time.sleep(PAUSE if len(accepted) > FEW else 0)
        before = connections_of(server)
        client = create_client(address)
        (pid,) = connections_of(server) - before
        accepted.append((pid, client))
        if len(found := dict(reversed(accepted))) == coordinators:
            for _, other in accepted:
                if other not in found.values():
                    other.close()
            return [found.pop(server.process.pid), *found.values()]
    raise AssertionError(f"{len(accepted)} connections were accepted by {len(found)} coordinators")


async def connect_async_to_each(server: ServerProcess, address: str, coordinators: int = 3) -> list[AsyncClient]:
    """The same."""
    accepted: list[tuple[int, AsyncClient]] = []
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        await asyncio.sleep(PAUSE if len(accepted) > FEW else 0)
        before = connections_of(server)
        client = await create_async_client(address)
        (pid,) = connections_of(server) - before
        accepted.append((pid, client))
        if len(found := dict(reversed(accepted))) == coordinators:
            for _, other in accepted:
                if other not in found.values():
                    await other.close()
            return [found.pop(server.process.pid), *found.values()]
    raise AssertionError(f"{len(accepted)} connections were accepted by {len(found)} coordinators")


class InTurn:
    """A client of whose connections each is asked in turn."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._turns: Iterator[Client] = itertools.cycle(clients)

    def __getattr__(self, name: str) -> Callable[..., object]:
        asked: Callable[..., object] = getattr(next(self._turns), name)
        return asked

    def close(self) -> None:
        """Close all."""
        for client in self._clients:
            client.close()
