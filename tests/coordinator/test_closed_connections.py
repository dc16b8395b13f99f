"""What a connection was is freed as soon as it is closed, however it ended: no collector has to find it.

Collections are a pause for every client, and grow with what came and went: a third of a second for ten thousand
connections a few seconds apart.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from shardhash.client import create_async_client
from shardhash.coordinator.bind import Bind, TlsFiles
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.tls import ServerTls
from shardhash.coordinator.users import Users
from shardhash.wire.address import Address, parse_bind
from tests.certificates import Authority
from tests.resets import scans
from tests.stores.plain_store import PlainStore

LIMIT = 20.0
EACH = 5
HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
PING = b'{"ping": {}}\n'
LOGIN = json.dumps({"auth": {"username": "nobody", "token": "guess"}}).encode() + b"\n"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


class Served:
    """Listeners on a raw and a WebSocket address, each also with TLS."""

    def __init__(self, listeners: Listeners, tcp: Address, ws: Address, tls: Address, wss: Address) -> None:
        self.listeners = listeners
        self.tcp, self.ws, self.tls, self.wss = tcp, ws, tls, wss
        self.tasks = len(asyncio.all_tasks())

    async def forgotten(self) -> None:
        async with asyncio.timeout(LIMIT):
            while self.listeners.connected or len(asyncio.all_tasks()) > self.tasks:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("certificates"), "authority")
    found.sign("localhost")
    return found


@pytest.fixture
async def served(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    store = PlainStore()
    services = Services(store=store, users=Users(store, sleep=_at_once), stats=Stats())
    listeners = Listeners(
        services,
        ServerLimits(),
        tls=ServerTls(TlsFiles(authority.path.with_name("localhost.crt"), authority.path.with_name("localhost.key"))),
    )
    binds = [Bind(parse_bind(f"{scheme}127.0.0.1:0")[0]) for scheme in ("", "ws://", "tls://", "wss://")]
    yield Served(listeners, *[await listeners.open(bind) for bind in binds])
    await listeners.close()


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answered(at: Served) -> None:
    async with connected(at.tcp) as (reader, writer):
        writer.write(HELLO + PING)
        assert await reader.readline() == b'{"alive":true}\n'


async def vanishing_login(at: Served) -> None:
    async with connected(at.tcp) as (_, writer):
        writer.write(HELLO + LOGIN)


async def refused_login(at: Served) -> None:
    async with connected(at.tcp) as (reader, writer):
        writer.write(HELLO + LOGIN)
        assert b"invoke-error" in await reader.readline()


async def reset(at: Served) -> None:
    async with connected(at.tcp) as (_, writer):
        writer.write(HELLO + PING * 100)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def silent(at: Served) -> None:
    async with connected(at.tcp):
        pass


async def another_protocol(at: Served) -> None:
    for address in (at.tcp, at.ws):
        async with connected(address) as (reader, writer):
            writer.write(b"\x16\x03\x01\x02\n")
            assert await reader.read() == b""


async def bad_http(at: Served) -> None:
    async with connected(at.ws) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\xfe\r\n\r\n")
        assert b"400" in await reader.read()


async def plain_http(at: Served) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{at.ws.port}/") as response:
        assert response.status == 426


async def websocket(at: Served) -> None:
    async with await create_async_client(f"ws://127.0.0.1:{at.ws.port}") as client:
        assert await client.get_unihash_batch([("m", "00" * 32)]) == [None]


async def resets(at: Served) -> None:
    for scan in scans(at.tcp.port, at.ws.port, at.tls.port, at.wss.port):
        await asyncio.to_thread(scan)


async def encrypted(at: Served) -> None:
    async with await create_async_client(f"tls://localhost:{at.tls.port}") as client:
        assert await client.ping()


async def encrypted_websocket(at: Served) -> None:
    async with await create_async_client(f"wss://localhost:{at.wss.port}") as client:
        assert await client.ping()


@pytest.mark.parametrize(
    "come_and_go",
    [
        *(answered, vanishing_login, refused_login, reset, silent, another_protocol, bad_http, plain_http, websocket),
        *(encrypted, encrypted_websocket, resets),
    ],
)
async def test_nothing_of_a_closed_connection_is_left_to_the_collector(
    served: Served, come_and_go: Callable[[Served], Awaitable[None]]
) -> None:
    await come_and_go(served)
    await served.forgotten()
    gc.collect()
    gc.disable()
    try:
        await asyncio.gather(*(come_and_go(served) for _ in range(EACH)))
        await served.forgotten()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = Counter(f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    ours = {kind: count for kind, count in kinds.items() if kind.startswith(("shardhash.", "aiohttp.web_ws."))}
    assert not ours
