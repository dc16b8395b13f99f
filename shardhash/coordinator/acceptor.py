"""Accepting: from a listening socket to connections, within the limits, whatever comes in.

A server of asyncio closes nothing and says nothing when there are no more descriptors; here a connection is refused
before it costs more than its descriptor, and accepting begins again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from shardhash.base.networks import UNIX
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.callers import peer_of
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.proxies import Proxies, receive_proxy_header, refusal_of_header
from shardhash.errors import ProtocolError

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted: hundreds of builders start at one time."""
ACCEPTS_A_TICK = 8
"""Each takes a third of a millisecond until it is served."""
GIVE_WAY = 64
"""Connections that make room when there are no descriptors."""
LEFT_TO_OTHERS = 3
"""Times that a coordinator leaves a connection to others that have fewer."""
LEFT_FOR = 0.001
"""Seconds that it leaves them each time."""
REST = 0.5
"""Seconds for which nothing is accepted after the system had no descriptor or memory for one more."""


class Acceptor:
    """Accepts the connections of one listening socket. `make` gives the protocol of each."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        complaints: Complaints,
        make: Callable[[Connection], asyncio.Protocol],
        context: ssl.SSLContext | None,
        proxies: Proxies,
        loads: Loads | None,
    ) -> None:
        """`loads`: of those that accept at the same socket, if there are others."""
        self._loads = loads
        self._left = 0
        self._proxies = proxies
        self._listening = listening
        self._connections = connections
        self._complaints = complaints
        self._make = make
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()
        self._closed = False
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._start()

    async def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        await self._tasks.close()

    def _start(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        if self._loads is not None and not self._loads.fewest() and self._left < LEFT_TO_OTHERS:
            self._left += 1
            self._loop.remove_reader(self._listening.fileno())
            self._loop.call_later(LEFT_FOR, self._start)
            return
        self._left = 0
        for _ in range(ACCEPTS_A_TICK if self._loads is None else 1):
            try:
                raw, where = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._rest(error)
                return
            self._admit(raw, where)

    def _rest(self, error: OSError) -> None:
        """There is no descriptor for one more. Those who ask nothing give theirs back; then it is tried again."""
        self._complaints.add(
            "descriptors",
            f"no connection can be accepted: {error.strerror}; {len(self._connections)} are open. Raise the limit of"
            " open files (LimitNOFILE= of the unit, ulimit -n), or lower --limit connections=N",
        )
        self._loop.remove_reader(self._listening.fileno())
        for _ in range(GIVE_WAY):
            if not self._connections.give_way():
                break
        self._loop.call_later(REST, self._start)

    def _admit(self, raw: socket.socket, where: Any) -> None:
        address, peer = (where[0], peer_of(*where[:2])) if isinstance(where, tuple) else (UNIX, "unix client")
        proxy = address in self._proxies.named
        connection = self._connections.admit(raw.fileno(), address, peer, shared=proxy)
        if connection is None:
            raw.close()
            return
        raw.setblocking(False)
        connection.hang_up = partial(_hang_up, raw)
        self._tasks.start(self._serve(raw, connection, proxy), "accepting a connection")

    async def _serve(self, raw: socket.socket, connection: Connection, proxy: bool) -> None:
        limit = None if self._context is None else self._connections.limits.hello_time
        try:
            if (proxy or self._context is not None) and not await self._read_proxy_header(raw, connection, proxy):
                raw.close()
                self._connections.remove(connection)
                return
            await self._loop.connect_accepted_socket(
                lambda: self._make(connection), raw, ssl=self._context, ssl_handshake_timeout=limit
            )
        except (OSError, ProtocolError) as error:  # TLS errors and limits of time are among them
            silent = proxy and isinstance(error, ConnectionResetError)  # a proxy looks whether somebody is there
            what = "no PROXY header can be read" if isinstance(error, ProtocolError) else "no connection can be made"
            level = logging.DEBUG if silent else logging.INFO
            log.log(level, "%s: closed: %s: %s", connection.peer, what, str(error) or type(error).__name__)
            raw.close()
            self._connections.remove(connection)

    async def _read_proxy_header(self, raw: socket.socket, connection: Connection, proxy: bool) -> bool:
        """Learn the client of a connection from a PROXY header, if it begins with one; whether it may go on."""
        async with asyncio.timeout(self._connections.limits.hello_time):
            header = await receive_proxy_header(raw)
        if header is not None and not proxy:
            self._connections.complain("proxy", refusal_of_header(connection.peer, connection.address))
            return False
        if header is not None and header.host is not None:
            return self._connections.move(connection, header.host, peer_of(header.host, header.port))
        return self._connections.holds(connection)


def _hang_up(raw: socket.socket) -> None:
    """End a connection whose task waits for its first bytes; that closes it."""
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)
