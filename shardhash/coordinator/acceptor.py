"""Accepting: from a listening socket to connections, within the limits, whatever comes in.

A host that opens connections faster than the limit `peer_arrivals` waits for each, and is not refused: farms are behind
one address. Those that wait have cost a descriptor and next to nothing else, so that others are served meanwhile.

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
from time import thread_time
from typing import Any

from shardhash.base.networks import UNIX
from shardhash.base.sockets import keep_alive
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.callers import peer_of
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.proxies import Proxies, receive_proxy_header, refusal_of_header
from shardhash.coordinator.rates import Rates
from shardhash.errors import ProtocolError

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted: hundreds of builders start at one time."""
FEWEST_ACCEPTS, MOST_ACCEPTS = 2, 8
"""Connections that are accepted in a tick. Each takes a sixth of a millisecond until it is served, in this tick and the
next ones, and the waves of a build take several ticks: a tick is 0.5 ms in a rush, and 1.6 ms when eight are accepted.
But ticks that others make long..."""
ONE_IN = 0.0005
"""...have one more accepted for so many seconds of processor time, so that who comes does not wait for all of them."""
GIVE_WAY = 64
"""Connections that make room when there are no descriptors."""
LEFT_TO_OTHERS = 3
"""Times that a coordinator leaves a connection to others that have fewer."""
LEFT_FOR = 0.001
"""Seconds that it leaves them each time."""
BEGIN_LIMIT = 0.5
"""Seconds that connections have to begin when nothing more is accepted: what is cut off in that is cut off unheard."""
REST = 0.5
"""Seconds for which nothing is accepted after the system had no descriptor or memory for one more."""


class Acceptor:
    """Accepts the connections of one listening socket. `make` gives the protocol of each."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        complaints: Complaints,
        rates: Rates,
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
        self._rates = rates
        self._make = make
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._waiting = BackgroundTasks()
        self._beginning = BackgroundTasks()
        self._closed = False
        self._last_tick = 0.0
        listening.setblocking(False)
        keep_alive(listening)  # what it accepts inherits that; one by one it would be a tenth of what each costs
        listening.listen(BACKLOG)
        self._start()

    async def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        await self._waiting.close()
        await self._beginning.close(BEGIN_LIMIT)

    def _start(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _go_on(self) -> None:
        if self._loads is not None:
            self._loads.rest(rests=False)
        self._start()

    def _accept(self) -> None:
        if self._loads is not None and not self._loads.fewest() and self._left < LEFT_TO_OTHERS:
            self._left += 1
            self._loop.remove_reader(self._listening.fileno())
            self._loop.call_later(LEFT_FOR, self._start)
            return
        self._left = 0
        for _ in range(self._accepts() if self._loads is None else 1):
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

    def _accepts(self) -> int:
        """How many to accept in this tick."""
        before, self._last_tick = self._last_tick, thread_time()
        return max(FEWEST_ACCEPTS, min(MOST_ACCEPTS, int((self._last_tick - before) / ONE_IN)))

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
        if self._loads is not None:
            self._loads.rest(rests=True)
        self._loop.call_later(REST, self._go_on)

    def _admit(self, raw: socket.socket, where: Any) -> None:
        address, peer = (where[0], peer_of(*where[:2])) if isinstance(where, tuple) else (UNIX, "unix client")
        proxy = address in self._proxies.named
        connection = self._connections.admit(raw.fileno(), address, peer, shared=proxy)
        if connection is None:
            raw.close()
            return
        raw.setblocking(False)
        connection.hang_up = partial(_hang_up, raw)
        wait = 0.0 if proxy else self._rates.arrive(connection.host, peer)
        if wait or proxy or self._context is not None:
            self._waiting.start(self._serve_later(raw, connection, proxy, wait), "accepting a connection")
        else:
            self._beginning.start(self._serve(raw, connection), "serving a connection")

    async def _serve_later(self, raw: socket.socket, connection: Connection, proxy: bool, wait: float) -> None:
        """Serve a connection that has to wait, or whose first bytes tell whose it is."""
        goes_on = False
        try:
            if await self._hold(raw, connection, wait):
                told = proxy or self._context is not None
                goes_on = not told or await self._read_proxy_header(raw, connection, proxy)
        except (OSError, ProtocolError) as error:  # limits of time are among them
            silent = proxy and isinstance(error, ConnectionResetError)  # a proxy looks whether somebody is there
            what = "no PROXY header can be read" if isinstance(error, ProtocolError) else "no connection can be made"
            self._log_end(connection, what, error, logging.DEBUG if silent else logging.INFO)
        finally:
            if goes_on:
                self._beginning.start(self._serve(raw, connection), "serving a connection")
            else:
                raw.close()
                self._connections.remove(connection)

    async def _serve(self, raw: socket.socket, connection: Connection) -> None:
        limit = None if self._context is None else self._connections.limits.hello_time
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(connection), raw, ssl=self._context, ssl_handshake_timeout=limit
            )
        except OSError as error:  # TLS errors and limits of time are among them
            self._log_end(connection, "no connection can be made", error)
            raw.close()
            self._connections.remove(connection)

    async def _hold(self, raw: socket.socket, connection: Connection, seconds: float) -> bool:
        """Let a connection wait whose host opened too many; whether it may go on then."""
        if seconds:
            over = self._loop.create_future()
            timer = self._loop.call_later(seconds, _finish, over)
            connection.hang_up = partial(_finish, over)
            try:
                await over
            finally:
                timer.cancel()
            connection.hang_up = partial(_hang_up, raw)
            connection.since = connection.heard = self._loop.time()  # what it had to wait is no delay of its own
        return self._connections.holds(connection)

    def _log_end(self, connection: Connection, what: str, error: Exception, level: int = logging.INFO) -> None:
        log.log(level, "%s: closed: %s: %s", connection.peer, what, str(error) or type(error).__name__)
        error.__traceback__ = error.__context__ = None  # its frames hold it, and the connection, until a collection

    async def _read_proxy_header(self, raw: socket.socket, connection: Connection, proxy: bool) -> bool:
        """Learn the client of a connection from a PROXY header, if it begins with one; whether it may go on."""
        async with asyncio.timeout(self._connections.limits.hello_time):
            header = await receive_proxy_header(raw)
        if header is not None and not proxy:
            self._connections.complain("proxy", refusal_of_header(connection.peer, connection.address))
            return False
        if header is not None and header.host is not None:
            if not self._connections.move(connection, header.host, peer_of(header.host, header.port)):
                return False
            return await self._hold(raw, connection, self._rates.arrive(connection.host, connection.peer))
        return self._connections.holds(connection)


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _hang_up(raw: socket.socket) -> None:
    """End a connection whose task waits for its first bytes; that closes it."""
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)
