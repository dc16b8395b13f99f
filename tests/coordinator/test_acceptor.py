"""Accepting: a host that opens connections too fast waits, others do not, and whoever waits can be closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shardhash.base.sockets import keep_alive
from shardhash.coordinator.acceptor import Acceptor
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.proxies import Proxies
from shardhash.coordinator.rates import Rates
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.wire.address import parse_bind
from tests.stores.plain_store import PlainStore

LIMIT = 20.0
ASKED = b'OEHASHEQUIV 1.1\nneeds-headers: false\n\n{"ping": {}}\n'
ALIVE = b'{"alive":true}\n'
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """Listeners on one address, and those who connect there."""

    def __init__(self, listeners: Listeners, services: Services, port: int) -> None:
        self.listeners, self.services, self.port = listeners, services, port
        self.writers: list[asyncio.StreamWriter] = []
        self._closed = False

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self.listeners.close()

    async def connect(self, host: str = "127.0.0.1", first: bytes = b"") -> Ends:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(host, 0))
        self.writers.append(writer)
        writer.write(first + ASKED)
        return reader, writer


@asynccontextmanager
async def serving(proxies: Proxies | None = None, **limits: int) -> AsyncIterator[Served]:
    store = PlainStore()
    services = Services(store=store, users=Users(store), stats=Stats())
    services.rates._buckets["peer_arrivals"]._clock = lambda: 1.0  # however slow this machine is
    listeners = Listeners(services, ServerLimits(**limits), proxies=proxies)
    address = await listeners.open(Bind(parse_bind("127.0.0.1:0")[0]))
    served = Served(listeners, services, address.port)
    try:
        yield served
    finally:
        await served.close()
        for writer in served.writers:
            writer.transport.abort()


async def said(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LIMIT):
        with suppress(ConnectionError):
            return await reader.readline()
    return b""


async def test_a_host_that_opens_too_many_waits_and_another_does_not() -> None:
    async with serving(peer_arrivals=2) as served:
        many = [await served.connect() for _ in range(6)]  # 4 in one go, then one each half of a second
        reader, _ = await served.connect("127.0.0.2")
        answered: list[str] = []

        async def note(name: str, reader: asyncio.StreamReader) -> None:
            assert await said(reader) == ALIVE
            answered.append(name)

        await asyncio.gather(*(note("many", one) for one, _ in many), note("one", reader))
        assert answered.index("one") < 6
        assert served.services.counters.limits_hit["peer_arrivals"] == 2


async def test_clients_of_a_proxy_wait_for_themselves() -> None:
    async with serving(Proxies(["127.0.0.1"]), peer_arrivals=1) as served:
        hosts = ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2")
        for host in hosts:
            reader, _ = await served.connect(first=f"PROXY TCP4 {host} 127.0.0.1 4711 80\r\n".encode())
            assert await said(reader) == ALIVE
        assert served.services.counters.limits_hit["peer_arrivals"] == 1


async def test_who_waits_gives_way_and_is_closed_at_once() -> None:
    async with serving(peer_arrivals=1, peer_connections=3) as served:
        for _ in range(2):
            assert await said((await served.connect())[0]) == ALIVE
        waiting, _ = await served.connect()
        await served.connect()
        assert await said(waiting) == b"", "it asked nothing that was read yet"
        assert served.listeners.connected == 3


async def test_who_waits_is_closed_when_the_server_stops() -> None:
    async with serving(peer_arrivals=1) as served:
        ends = [await served.connect() for _ in range(4)]
        for reader, _ in ends[:2]:
            assert await said(reader) == ALIVE
        await served.close()
        assert [await said(reader) for reader, _ in ends] == [b""] * 4


async def test_accepted_connections_are_probed_and_send_at_once() -> None:
    async with serving() as served:
        reader, _ = await served.connect()
        assert await said(reader) == ALIVE
        (connection,) = served.listeners._connections._open.values()
        assert connection.transport is not None
        raw, wanted = connection.transport.get_extra_info("socket"), socket.socket()
        keep_alive(wanted)
        for level, name in (
            *((socket.SOL_SOCKET, "SO_KEEPALIVE"), (socket.IPPROTO_TCP, "TCP_NODELAY")),
            *((socket.IPPROTO_TCP, name) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")),
        ):
            option = getattr(socket, name)
            assert raw.getsockopt(level, option) == wanted.getsockopt(level, option) != 0, name
        wanted.close()


async def test_whose_first_bytes_cannot_be_read_is_closed_and_never_served() -> None:
    made: list[Connection] = []

    def make(connection: Connection) -> asyncio.Protocol:
        made.append(connection)
        return asyncio.Protocol()

    limits, complaints = ServerLimits(hello_time=0.3), Complaints()
    connections, listening = Connections(limits, complaints), socket.create_server(("127.0.0.1", 0))
    rates = Rates(limits, complaints)
    acceptor = Acceptor(listening, connections, complaints, rates, make, None, Proxies(["127.0.0.1"]), None)
    try:
        port = listening.getsockname()[1]
        reset = (await asyncio.open_connection("127.0.0.1", port))[1]
        broken, silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        broken[1].write(b"PROXY nonsense\r\n" + ASKED)
        reset.transport.abort()
        assert [await said(reader) for reader, _ in (broken, silent)] == [b"", b""]
        assert (len(connections), made) == (0, [])
        for _, writer in (broken, silent):
            writer.transport.abort()
    finally:
        await acceptor.close()
