"""Listeners: the addresses that a server answers on, and the connections that came in by them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

from shardhash.base.sockets import keep_alive
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.entrance import Entrance
from shardhash.coordinator.handlers import Services
from shardhash.coordinator.origins import Browsers, refusal_of_origin
from shardhash.coordinator.session import Output, Session
from shardhash.coordinator.tls import ServerTls, name_in_certificate
from shardhash.coordinator.transports.line import LineProtocol
from shardhash.coordinator.transports.websocket import WebSocketHandler
from shardhash.errors import ConfigError
from shardhash.wire.address import Address
from shardhash.wire.connection import Limits, ServerConnection
from shardhash.wire.messages import COMMANDS, READ_ONLY_COMMANDS

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted: hundreds of builders start at one time."""
CLOSE_LIMIT = 1.0
"""Seconds that a WebSocket client has to answer a close; an idle one reads nothing and never does."""
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
        limits: Limits,
        browsers: Browsers | None = None,
        tls: ServerTls | None = None,
        plain: Plain = _nothing_there,
    ) -> None:
        """`tls` must be given for addresses of TLS."""
        self._browsers = browsers or Browsers()
        self._plain = plain
        self._services = services
        self._limits = limits
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._runners: list[web.AppRunner] = []
        self._sites: list[web.SockSite] = []
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
            await self._serve_http(sockets, self._websocket_handler(entrance), self._context(bind))
        else:
            await self._serve_lines(entrance, sockets)
        return _real_address(address, sockets)

    async def open_http(self, bind: Bind, passed: Sequence[socket.socket] = ()) -> Address:
        """Answer plain HTTP, and no WebSockets, on an address of kind tcp; as `open`."""
        sockets, entrance = passed or await self._bind(bind.address), self._entrance(bind)
        own = own_names(bind)

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await self._plain(request, entrance.bind, own)
            return response or web.Response(status=404, text="There is nothing here. Metrics are at /metrics.\n")

        await self._serve_http(sockets, handle)
        return _real_address(bind.address, sockets)

    async def _bind(self, address: Address) -> list[socket.socket]:
        try:
            if address.kind == "unix":
                return [self._bind_unix(Path(address.path))]
            return await _bind_tcp(address)
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None

    def set_rules(self, binds: Sequence[Bind], limits: Limits) -> list[str]:
        """Take over rules of the open addresses at once, and limits for connections to come.

        Gives a text for each address that is open and not among `binds`, or the other way around.
        """
        self._limits = limits
        texts, unnamed = [], list(self._entrances)
        for bind in binds:
            entrance = next((one for one in unnamed if one.bind.address == bind.address), None)
            if entrance is None:
                texts.append(f"{bind.address} is not listened on")
            else:
                unnamed.remove(entrance)
                entrance.set_rules(bind)
        return texts + [f"{entrance.bind.address} is still listened on" for entrance in unnamed]

    def _entrance(self, bind: Bind) -> Entrance:
        self._entrances.append(Entrance(bind))
        return self._entrances[-1]

    async def close(self) -> None:
        """Accept no more, let the sessions finish what is under way, close them, unlink the unix sockets."""
        for server in self._servers:
            server.close()
        for site in self._sites:
            await site.stop()
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

    # --------------------------------------------------------------------------------------------- sessions

    def _opener(self, entrance: Entrance) -> Callable[[Output, str, asyncio.BaseTransport | None], Session]:
        def open_session(output: Output, peer: str, transport: asyncio.BaseTransport | None) -> Session:
            caller = entrance.caller()
            if transport is not None and entrance.bind.address.encrypted:
                caller.certified = name_in_certificate(transport.get_extra_info("peercert"))
            return Session(self._services, caller, output, peer)

        return open_session

    def _connection(self, entrance: Entrance, *, lines: bool) -> ServerConnection:
        commands = READ_ONLY_COMMANDS if entrance.bind.read_only else COMMANDS
        return ServerConnection(commands, self._limits, lines=lines)

    def _tracker(self, bind: Bind) -> Callable[[asyncio.Task[None], Session], None]:
        connected, connections = self._services.connected, self._services.counters.connections
        kind = bind.address.kind

        def ended(task: asyncio.Task[None]) -> None:
            connected.discard(self._sessions.pop(task).caller)
            connections[kind] -= 1

        def track(task: asyncio.Task[None], session: Session) -> None:
            self._sessions[task] = session
            session.caller.transport = kind
            connected.add(session.caller)
            connections[kind] += 1
            task.add_done_callback(ended)

        return track

    async def _serve_lines(self, entrance: Entrance, sockets: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        opener, track = self._opener(entrance), self._tracker(entrance.bind)

        def factory() -> LineProtocol:
            connection = self._connection(entrance, lines=True)
            return LineProtocol(connection, opener, track, self._limits.pipelined)

        for raw in sockets:
            make = loop.create_unix_server if raw.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await make(factory, sock=raw, backlog=BACKLOG, ssl=self._context(entrance.bind)))

    def _context(self, bind: Bind) -> ssl.SSLContext | None:
        if not bind.address.encrypted:
            return None
        if self._tls is None:
            raise ConfigError(f"cannot listen on {bind.address} without a certificate")
        return self._tls.context

    def _websocket_handler(self, entrance: Entrance) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        opener, track, own = self._opener(entrance), self._tracker(entrance.bind), own_names(entrance.bind)

        async def handle(request: web.Request) -> web.StreamResponse:
            response = web.WebSocketResponse(compress=False, max_msg_size=self._limits.message, timeout=CLOSE_LIMIT)
            if not response.can_prepare(request).ok:
                text = "This is a hash equivalence server. It speaks OEHASHEQUIV 1.1 over WebSocket.\n"
                told = web.Response(status=426, text=text, headers={"Upgrade": "websocket"})
                return await self._plain(request, entrance.bind, own) or told
            origin, host = request.headers.get("Origin"), request.headers.get("Host")
            if refusal := refusal_of_origin(origin, host, self._browsers, own):
                log.warning("%s: refused: %s", request.remote or "unknown", refusal)
                return web.Response(status=403, text=refusal + "\n")
            if request.transport is not None:
                keep_alive(request.transport.get_extra_info("socket"))
            await response.prepare(request)
            transport = WebSocketHandler(response, self._connection(entrance, lines=False), self._limits.pipelined)
            session = opener(transport, request.remote or "unknown", request.transport)
            task = asyncio.current_task()
            assert task is not None
            track(task, session)
            await transport.run(session)
            return response

        return handle

    async def _serve_http(
        self,
        sockets: Sequence[socket.socket],
        handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        application = web.Application(client_max_size=LONGEST_BODY)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=FINISH_LIMIT)
        await runner.setup()
        self._runners.append(runner)
        for raw in sockets:
            site = web.SockSite(runner, raw, backlog=BACKLOG, ssl_context=context)
            await site.start()
            self._sites.append(site)

    def _bind_unix(self, path: Path) -> socket.socket:
        """A socket at a path of any length: the kernel takes 107 bytes, a folder's descriptor shortens the rest."""
        path = path.absolute()
        _clear_stale(path)
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            # The name itself may be too long as well, so bind under a short one and rename.
            short = f".{os.getpid()}.{len(self._unix)}"
            raw.bind(f"/proc/self/fd/{folder}/{short}")
            os.rename(short, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            raw.close()
            raise
        finally:
            os.close(folder)
        self._unix.append((path, path.stat().st_ino))
        return raw


def own_names(bind: Bind) -> frozenset[str]:
    """The names by which an address is reached for certain (origins.py)."""
    return frozenset(name.lower() for name in (bind.address.host, socket.gethostname(), socket.getfqdn()) if name)


def _real_address(address: Address, sockets: Sequence[socket.socket]) -> Address:
    """The address with the port that it got."""
    if address.kind == "unix":
        return address
    return replace(address, host=address.host or "0.0.0.0", port=sockets[0].getsockname()[1])


def _clear_stale(path: Path) -> None:
    """Remove what a dead server left at the path. Raises ConfigError for a live one, or what is no socket."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot listen on unix://{path}: the file is there and is no socket; remove or rename it")
    node = os.open(path, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(f"/proc/self/fd/{node}")
    except ConnectionRefusedError:
        path.unlink()
        return
    finally:
        os.close(node)
    raise ConfigError(f"cannot listen on unix://{path}: another server answers there; stop it first")


async def _bind_tcp(address: Address) -> list[socket.socket]:
    """One socket for each address that the host has; all with the same port."""
    loop = asyncio.get_running_loop()
    hosts = [address.host] if address.host else ["0.0.0.0", "::"]
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for host in hosts:
            for family, _, _, _, where in await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                if family == socket.AF_INET6 and not address.host and not socket.has_ipv6:
                    continue
                sockets.append(_listen(family, (*where[:1], port, *where[2:])))
                port = sockets[0].getsockname()[1]
    except OSError:
        if not sockets or address.host not in ("", "localhost"):  # a host without IPv6 is served by IPv4 alone
            for raw in sockets:
                raw.close()
            raise
    return sockets


def _listen(family: int, where: tuple[object, ...]) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        raw.bind(where)
        raw.setblocking(False)
    except OSError:
        raw.close()
        raise
    return raw
