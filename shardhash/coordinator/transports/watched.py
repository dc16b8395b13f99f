"""A protocol of aiohttp, seen as one of our connections: what comes in is counted, and its end is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from shardhash.base.turns import Turns
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.proxies import refusal_of_header
from shardhash.coordinator.transports.line import HEAVY
from shardhash.wire.framing import shown
from shardhash.wire.proxy_header import is_proxy_header

log = logging.getLogger(__name__)

_PAUSED = ("_reading_paused", "_buffer_paused")
"""Whether aiohttp wants nothing to be read, and reads on by itself."""
_END_OF_HEAD = b"\r\n\r\n"
SLACK = 1 << 20
"""Bytes that may come in behind a message of the longest size, before it is taken out of aiohttp's queue."""


class WatchedProtocol(asyncio.Protocol):
    """Forwards every call to another protocol. What comes in at a rush is read a part at a time, in turn."""

    def __init__(
        self, inner: asyncio.Protocol, connection: Connection, connections: Connections, most: int, turns: Turns
    ) -> None:
        """`most`: bytes of a message that may be incomplete; it may change."""
        self.most = most
        self.writable = asyncio.Event()
        self.writable.set()
        """Whether the peer reads what is sent to it, or is gone."""
        self.take: Callable[[bytes], bool] | None = None
        """Takes what comes in, or leaves it to aiohttp."""
        self._last = b""
        self._inner = inner
        self._connection = connection
        self._connections = connections
        self._turns = turns
        self._rests = False
        self._http = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol; so below."""
        self._connection.transport = cast(asyncio.Transport, transport)
        self._connection.watched = self
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection.fresh and not self._http and not self._sniff(data):
            return
        connection.heard = self._loop.time()
        if len(data) >= HEAVY:
            self._rest()
        if self.take is not None:
            if self.take(data):
                return
        else:
            self._last = (self._last + data)[-len(_END_OF_HEAD) :]
        if not connection.partial:
            connection.partial_since = connection.heard
        connection.partial += len(data)
        if connection.partial > self.most + SLACK:
            log.info("%s: closed: a message is longer than %d bytes", connection.peer, self.most)
            assert connection.transport is not None
            connection.transport.abort()
            return
        self._connections.queue(connection, connection.partial)
        self._inner.data_received(data)

    def _rest(self) -> None:
        transport = self._connection.transport
        if not self._rests and transport is not None and not transport.is_closing():
            self._rests = True
            transport.pause_reading()
            self._turns.next().add_done_callback(self._read_on)

    def _read_on(self, _turn: asyncio.Future[None]) -> None:
        self._rests = False
        transport = self._connection.transport
        paused = any(getattr(self._inner, name, False) for name in _PAUSED)
        if not paused and transport is not None and not transport.is_closing():
            transport.resume_reading()

    @property
    def upgraded(self) -> bool:
        """Whether nothing has come in behind the head of a request."""
        return self._last == _END_OF_HEAD

    def _sniff(self, data: bytes) -> bool:
        """Whether this begins like HTTP. A scanner that speaks something else need not get as far as aiohttp."""
        if is_proxy_header(data):
            connection = self._connection
            self._connections.complain("proxy", refusal_of_header(connection.peer, connection.address))
            assert connection.transport is not None
            connection.transport.abort()
            return False
        self._http = data[:1].isupper() and data[:9].isascii()
        if not self._http:
            log.info(
                "%s: closed: %s is no HTTP, and this address takes WebSockets", self._connection.peer, shown(data[:40])
            )
            assert self._connection.transport is not None
            self._connection.transport.abort()
        return self._http

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self.writable.clear()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self.writable.set()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self._connection)
        self._connection.let_go()
        self.writable.set()
        self._inner.connection_lost(exc)
