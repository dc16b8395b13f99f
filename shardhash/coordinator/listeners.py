"""Listeners: the addresses that a server answers on, and the connections that came in by them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

from shardhash.base.networks import group_of
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.acceptor import Acceptor
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.complaints import Flood, one_line_of_scanners, quiet
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.entrance import Entrance
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.origins import Browsers, refusal_of_origin
from shardhash.coordinator.output import Output
from shardhash.coordinator.proxies import Proxies
from shardhash.coordinator.services import Services
from shardhash.coordinator.session import Session
from shardhash.coordinator.sockets import bind_tcp, bind_unix, refusal
from shardhash.coordinator.tls import ServerTls, name_in_certificate
from shardhash.coordinator.transports.line import LineProtocol
from shardhash.coordinator.transports.watched import WatchedProtocol
from shardhash.coordinator.transports.websocket import WebSocketHandler
from shardhash.errors import ConfigError
from shardhash.wire.address import Address
from shardhash.wire.commands import COMMANDS, READ_ONLY_COMMANDS
from shardhash.wire.connection import ServerConnection

log = logging.getLogger(__name__)
http_log = logging.getLogger("shardhash.http")
http_log.addFilter(one_line_of_scanners)

LINES_AT_ONCE = 64
"""Requests of a line transport that are parsed at once; a fifth of a millisecond."""
HTTP_IDLE = 75.0
"""Seconds between requests of HTTP clients that want no WebSocket."""
CLOSE_LIMIT = 1.0
"""Seconds that a WebSocket client has to answer a close; an idle one reads nothing and never does."""
MOST_AT_ONCE = 8 << 20
"""Bytes of a WebSocket message, which aiohttp joins and unmasks in one go; 4 ms. Lines have no such limit."""
LONGEST_BODY = 1 << 20
"""Bytes of the body of a plain HTTP request."""
FINISH_LIMIT = 5.0
"""Seconds that connections have to finish what is under way when the server stops."""


Plain: TypeAlias = Callable[[web.Request, Bind, Collection[str]], Awaitable[web.StreamResponse | None]]
"""Answers a plain HTTP request, which came in by this bind of a server with these names; None: nothing is there."""


async def _nothing_there(_request: web.Request, _bind: Bind, _own: Collection[str]) -> None:
    return None


class Listeners:
    """All listeners of a server and their sessions. `plain` answers what is no WebSocket."""

    def __init__(
        self,
        services: Services,
        limits: ServerLimits,
        browsers: Browsers | None = None,
        tls: ServerTls | None = None,
        plain: Plain = _nothing_there,
        descriptors: int = 1 << 20,
        proxies: Proxies | None = None,
        loads: Loads | None = None,
    ) -> None:
        """`tls` must be given for addresses of TLS. `descriptors`: how many connections there can be.

        `loads`: those of all coordinators of a server that has several.
        """
        self._loads = loads
        self.sockets: list[list[socket.socket]] = []
        """The listening sockets of each address that `open` opened."""
        services.set_limits(limits)
        self._proxies = proxies or Proxies()
        self._flood = Flood(limits.log_lines)
        for name in quiet:
            logging.getLogger(name).addFilter(self._flood)
        self._connections = Connections(limits, services.complaints, descriptors, loads.tell if loads else None)
        self._watching = BackgroundTasks()
        self._browsers = browsers or Browsers()
        self._plain = plain
        self._services = services
        self._handlers = Handlers(services)
        self._limits = limits
        self._tls = tls
        self._acceptors: list[Acceptor] = []
        self._runners: list[web.AppRunner] = []
        self._unix: list[tuple[Path, int]] = []
        self._entrances: list[Entrance] = []
        self._sessions: dict[asyncio.Task[None], Session] = {}

    async def open(self, bind: Bind, passed: Sequence[socket.socket] = ()) -> Address:
        """Listen on an address; the address with its real port. Raises ConfigError when it cannot.

        `passed`: sockets that are bound to it already, if there are any.
        """
        address, entrance = bind.address, self._entrance(bind)
        sockets = passed or await self._bind(address)
        if address.kind in ("ws", "wss"):
            make = await self._http(entrance, self._websocket_handler(entrance))
        else:
            make = self._lines(entrance)
        self.sockets.append(list(sockets))
        self._accept(sockets, make, self._context(bind))
        return _real_address(address, sockets)

    async def open_http(self, bind: Bind, passed: Sequence[socket.socket] = ()) -> Address:
        """Answer plain HTTP, and no WebSockets, on an address of kind tcp; as `open`."""
        sockets, entrance = passed or await self._bind(bind.address), self._entrance(bind)
        own = own_names(bind)

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await self._plain(await self._begin_plain(request), entrance.bind, own)
            return response or web.Response(status=404, text="There is nothing here. Metrics are at /metrics.\n")

        self._accept(sockets, await self._http(entrance, handle), None, alone=True)
        return _real_address(bind.address, sockets)

    async def _bind(self, address: Address) -> list[socket.socket]:
        try:
            if address.kind == "unix":
                raw, inode = bind_unix(Path(address.path))
                self._unix.append((Path(address.path), inode))
                return [raw]
            return await bind_tcp(address)
        except OSError as error:
            raise refusal(address, error) from None

    def set_rules(self, binds: Sequence[Bind], limits: ServerLimits, proxies: Proxies | None = None) -> list[str]:
        """Take over rules of the open addresses at once, and limits for connections to come.

        Gives a text for each address that is open and not among `binds`, or the other way around.
        """
        self._limits = self._connections.limits = limits
        self._services.set_limits(limits)
        self._proxies.named = (proxies or Proxies()).named
        self._flood.most = limits.log_lines
        texts, unnamed = [], list(self._entrances)
        for bind in binds:
            entrance = next((one for one in unnamed if one.bind.address == bind.address), None)
            if entrance is None:
                texts.append(f"{bind.address} is not listened on")
            else:
                unnamed.remove(entrance)
                entrance.set_rules(bind)
        return texts + [f"{entrance.bind.address} is still listened on" for entrance in unnamed]

    @property
    def connected(self) -> int:
        """How many connections are open, HTTP among them."""
        return len(self._connections)

    def quiet(self) -> float:
        """Seconds for which no connection has been open."""
        return self._connections.quiet()

    def _entrance(self, bind: Bind) -> Entrance:
        self._entrances.append(Entrance(bind))
        return self._entrances[-1]

    async def close(self) -> None:
        """Accept no more, let the sessions finish what is under way, close them, unlink the unix sockets."""
        await asyncio.gather(*(acceptor.close() for acceptor in self._acceptors))
        await self._watching.close()
        for session in self._sessions.values():
            session.stop()
        if self._sessions:
            _, late = await asyncio.wait(list(self._sessions), timeout=FINISH_LIMIT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for runner in self._runners:
            await runner.cleanup()
        for path, inode in self._unix:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # another server may have taken the name
                    path.unlink()
        for name in quiet:
            logging.getLogger(name).removeFilter(self._flood)

    # --------------------------------------------------------------------------------------------- sessions

    def _accept(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[Connection], asyncio.Protocol],
        context: ssl.SSLContext | None,
        *,
        alone: bool = False,
    ) -> None:
        """`alone`: no other coordinator accepts there."""
        loads = None if alone else self._loads
        if not self._acceptors:
            self._watching.start(self._connections.watch(), "watching connections")
        complaints, proxies = self._services.complaints, self._proxies
        self._acceptors += [
            Acceptor(raw, self._connections, complaints, self._services.rates, make, context, proxies, loads)
            for raw in sockets
        ]

    def _session(
        self,
        entrance: Entrance,
        connection: Connection,
        machine: ServerConnection,
        output: Output,
        transport: asyncio.BaseTransport,
    ) -> Session:
        """The session of a connection, whose limits change with who acts there."""
        caller = entrance.caller()
        if entrance.bind.address.encrypted:
            caller.certified = name_in_certificate(transport.get_extra_info("peercert"))

        def identified() -> None:
            self._connections.claim(connection, caller.login)
            machine.limits = self._limits.of(caller.identity)
            if connection.watched is not None:
                connection.watched.most = min(machine.limits.message, MOST_AT_ONCE)

        caller.identified = identified
        return Session(self._services, self._handlers, caller, output, connection.peer)

    def _machine(self, entrance: Entrance, *, lines: bool) -> ServerConnection:
        commands = READ_ONLY_COMMANDS if entrance.bind.read_only else COMMANDS
        limits = self._limits.of(entrance.bind.anonymous)
        return ServerConnection(commands, limits, lines=lines, at_once=LINES_AT_ONCE)

    def _tracker(self, bind: Bind) -> Callable[[asyncio.Task[None], Session], None]:
        connected, connections = self._services.connected, self._services.counters.connections
        kind = bind.address.kind

        def ended(task: asyncio.Task[None]) -> None:
            caller = self._sessions.pop(task).caller
            connected.discard(caller)
            connections[kind] -= 1
            log.debug("%s: disconnected", caller.peer)

        def track(task: asyncio.Task[None], session: Session) -> None:
            self._sessions[task] = session
            session.caller.transport = kind
            connected.add(session.caller)
            connections[kind] += 1
            log.debug("%s: connected by %s", session.caller.peer, kind)
            task.add_done_callback(ended)

        return track

    def _lines(self, entrance: Entrance) -> Callable[[Connection], asyncio.Protocol]:
        track = self._tracker(entrance.bind)

        def make(connection: Connection) -> LineProtocol:
            machine = self._machine(entrance, lines=True)
            open_session = partial(self._session, entrance, connection, machine)
            return LineProtocol(machine, connection, self._connections, open_session, track, self._services.turns)

        return make

    def _context(self, bind: Bind) -> ssl.SSLContext | None:
        if not bind.address.encrypted:
            return None
        if self._tls is None:
            raise ConfigError(f"cannot listen on {bind.address} without a certificate")
        return self._tls.context

    def _connection_of(self, request: web.Request) -> Connection:
        """The connection of a request. ConnectionResetError when it was dropped, which aiohttp is told of."""
        transport = request.transport
        raw = None if transport is None else transport.get_extra_info("socket")  # None as well, of TLS that was reset
        if transport is not None and raw is not None:
            connection = self._connections.of(raw.fileno())
            if connection is not None and connection.transport is transport:  # else another one has its number by now
                return connection
            request.protocol.force_close()  # else aiohttp would write an answer to a transport that is gone
        raise ConnectionResetError("the client left")

    async def _begin_plain(self, request: web.Request) -> web.Request:
        """A plain HTTP request came in: the same as its client sent it, when that may be answered.

        From then on aiohttp sees to the limits of time.
        """
        connection = self._connection_of(request)
        connection.greeted = True
        connection.busy = _always
        connection.partial = 0
        self._connections.queue(connection, 0)
        self._connections.asked(connection)
        client = self._proxies.client_of(connection.address, request)
        if wait := self._services.rates.charge(group_of(client), client):
            await asyncio.sleep(wait)
        return self._proxies.seen_by(connection.address, request)

    def _websocket_handler(self, entrance: Entrance) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        track, own = self._tracker(entrance.bind), own_names(entrance.bind)

        async def handle(request: web.Request) -> web.StreamResponse:
            response = web.WebSocketResponse(
                compress=False,
                max_msg_size=min(self._limits.message, MOST_AT_ONCE) + 1,  # it takes what is shorter
                timeout=CLOSE_LIMIT,
                decode_text=False,
                autoping=False,
            )
            if not response.can_prepare(request).ok:
                text = "This is a hash equivalence server. It speaks OEHASHEQUIV 1.1 over WebSocket.\n"
                told = web.Response(status=426, text=text, headers={"Upgrade": "websocket"})
                return await self._plain(await self._begin_plain(request), entrance.bind, own) or told
            connection = self._connection_of(request)
            transport = request.transport
            assert transport is not None
            watched = connection.watched
            client = self._proxies.client_of(connection.address, request)
            if client != connection.address and not self._connections.move(connection, client, client):
                text = f"{client} has too many connections (the server's limit peer_connections)\n"
                return web.Response(status=429, text=text)
            origin, host = request.headers.get("Origin"), request.headers.get("Host")
            if refusal := refusal_of_origin(origin, host, self._browsers, own):
                log.warning("%s: refused: %s", connection.peer, refusal)
                return web.Response(status=403, text=refusal + "\n")
            try:
                await response.prepare(request)
            except ConnectionError:  # aiohttp would tell of it twice; it notices with this answer that nobody is there
                return web.Response()
            machine = self._machine(entrance, lines=False)
            handler = WebSocketHandler(
                response, transport, watched, machine, connection, self._connections, self._services.turns
            )
            session = self._session(entrance, connection, machine, handler, transport)
            task = asyncio.current_task()
            assert task is not None
            track(task, session)
            await handler.run(session)
            return response

        return handle

    async def _http(
        self, entrance: Entrance, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[Connection], asyncio.Protocol]:
        application = web.Application(client_max_size=LONGEST_BODY)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=FINISH_LIMIT,
            logger=http_log,
            keepalive_timeout=HTTP_IDLE,
        )
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        assert server is not None

        def make(connection: Connection) -> WatchedProtocol:
            most = self._limits.of(entrance.bind.anonymous).message
            return WatchedProtocol(server(), connection, self._connections, most, self._services.turns)

        return make


def _always() -> bool:
    return True


def own_names(bind: Bind) -> frozenset[str]:
    """The names by which an address is reached for certain (origins.py)."""
    return frozenset(name.lower() for name in (bind.address.host, socket.gethostname(), socket.getfqdn()) if name)


def _real_address(address: Address, sockets: Sequence[socket.socket]) -> Address:
    """The address with the port that it got."""
    if address.kind == "unix":
        return address
    return address._replace(host=address.host or "0.0.0.0", port=sockets[0].getsockname()[1])
