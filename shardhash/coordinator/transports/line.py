"""The line transports, raw TCP, TLS and unix sockets, as an asyncio protocol.

What comes in is parsed a part at a time: the first part at once, the rest when the session has answered that. So a
connection that sends ten thousand requests in one packet costs the others no more than one that sends a hundred.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from shardhash.base.turns import Turns
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.proxies import refusal_of_header
from shardhash.coordinator.session import Session
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import Asked, Event, Send, StreamLines
from shardhash.wire.framing import ANNOUNCEMENT_LINE, encode_json, encode_part
from shardhash.wire.long_text import JsonPieces
from shardhash.wire.proxy_header import is_proxy_header

LINGER = 1.0
"""Seconds that a peer whose connection we end has to end its side."""
HEAVY = 64 * 1024
"""Bytes that come in at once, after which a connection waits for its turn to read on: the event loop would take 32 such
reads of each connection in a row."""
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8
"""States of a connection, the first byte of TCP_INFO: it was reset; the peer ended its side."""
UNCOUNTED = 8 * 1024
"""Bytes that a connection may hold without a word to the memory budget: small requests are answered at once."""
MOST_UNPARSED = 256 * 1024
"""Bytes that wait to be parsed, from which on nothing more is read."""


class LineProtocol(asyncio.Protocol):
    """One raw connection; an Output for its session."""

    def __init__(
        self,
        machine: ServerConnection,
        connection: Connection,
        connections: Connections,
        open_session: Callable[[LineProtocol, asyncio.BaseTransport], Session],
        track: Callable[[asyncio.Task[None], Session], None],
        turns: Turns,
    ) -> None:
        self._machine = machine
        self._connection = connection
        self._connections = connections
        self._open_session = open_session
        self._track = track
        self._pipelined = connections.limits.pipelined
        self._loop = asyncio.get_running_loop()
        self._unparsed: list[bytes] = []
        self._unparsed_size = 0
        self._turns = turns
        self._paused = False
        self._rests = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._peer_ended = asyncio.Event()
        self._transport: asyncio.Transport
        self._session: Session

    # -------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._session = self._open_session(self, transport)
        self._session.more = self._parse_more
        self._session.is_gone = self._connection.is_gone = self._is_gone
        self._connection.transport = self._transport
        self._connection.busy = self._session.is_busy
        self._connection.resume = self._read_on
        self._track(self._loop.create_task(self._run()), self._session)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        connection.heard = self._loop.time()
        if not connection.greeted and is_proxy_header(data):
            self._connections.complain("proxy", refusal_of_header(connection.peer, connection.address))
            self._transport.abort()
            return
        if len(data) >= HEAVY and not self._rests:
            self._rests = True
            self._turns.next().add_done_callback(self._rested)
        if self._unparsed or self._machine.more:
            self._unparsed.append(data)
            self._unparsed_size += len(data)
        else:
            events = self._machine.receive_data(data)
            if self._answered_at_once(events):
                connection.partial, connection.partial_since = self._machine.held, connection.heard
                if connection.partial + self._session.held <= UNCOUNTED and not connection.held and not self._rests:
                    return  # as nearly always: there is nothing to count, nor a reason to pause
            else:
                self._take(events)
        held = self._held()
        if held > UNCOUNTED or self._connection.held:
            self._connections.keep(self._connection, held)
        if not self._paused and self._must_pause():
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._peer_ended.set()
        self._session.feed_end()
        return self._transport.can_write_eof()  # keep our side open for the answers; TLS has no such thing

    def connection_lost(self, _exc: Exception | None) -> None:
        self._connections.remove(self._connection)
        self._connection.let_go()
        self._peer_ended.set()
        self._session.feed_lost()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ------------------------------------------------------------------------------------------------ Output

    async def send_raw(self, data: bytes) -> None:
        """See Output."""
        if self._transport.is_closing():
            raise ConnectionResetError("the peer is gone")
        self._transport.write(data)
        if not self._writable.is_set():
            self._connections.keep_unsent(self._connection, self._transport.get_write_buffer_size())
            await self._writable.wait()
            if not self._transport.is_closing():
                self._connections.keep_unsent(self._connection, self._transport.get_write_buffer_size())

    async def send_json(self, value: object) -> None:
        """See Output."""
        pieces = JsonPieces(value)
        if pieces.whole is not None:
            await self.send_raw(encode_json(pieces.whole))
            return
        try:
            await self.send_raw(ANNOUNCEMENT_LINE)
            for piece in pieces:
                self._connections.keep_unwritten(self._connection, pieces.left)
                await self.send_raw(encode_part(piece))
                await self._turns.next()
            await self.send_raw(b"\n")
        finally:
            self._connections.keep_unwritten(self._connection, 0)

    async def send_lines(self, lines: bytes) -> None:
        """See Output."""
        await self.send_raw(lines)

    async def send_frame(self, frame: bytes) -> None:
        """See Output; never asked for here, as binary requests cannot arrive."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------------- parsing

    def _answered_at_once(self, events: list[Event]) -> bool:
        """Whether these events need not be fed to the session."""
        if len(events) != 1 or self._connection.fresh or self._machine.more:
            return False
        if not self._writable.is_set() or self._transport.is_closing():
            return False
        event = events[0]
        if type(event) is Asked:
            return self._session.at_once.begin_report(event, self._write_json)
        answer = self._session.at_once.answer(events) if type(event) is StreamLines else None
        if answer is None:
            return False
        self._transport.write(answer)
        return True

    def _write_json(self, text: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_json(text))

    def _take(self, events: list[Event]) -> None:
        """Give events to the session, and tell how far the connection is."""
        connection = self._connection
        if events or self._machine.more:  # the session asks for the rest
            self._session.feed(events)
        if events or not connection.partial:
            connection.partial_since = connection.heard
        connection.partial = self._machine.held
        if connection.fresh:
            connection.greeted = self._machine.greeted
            if events and not all(type(event) is Send for event in events):
                self._connections.asked(connection)

    def _parse_more(self) -> bool:
        """Parse the next part of what came in; whether there was any."""
        if self._machine.more:
            self._session.begin_slice()
            self._take(self._machine.receive_data(b""))
        elif self._unparsed:
            data = b"".join(self._unparsed)
            self._unparsed, self._unparsed_size = [], 0
            self._take(self._machine.receive_data(data))
            self._read_on()  # it may be a part of a request, whose rest has to come in before anything is answered
        else:
            return False
        return True

    def _is_gone(self) -> bool:
        if self._transport.is_closing():
            return True
        raw = self._transport.get_extra_info("socket")
        if raw is None or raw.family == socket.AF_UNIX:
            return False
        state: int = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _TCP_CLOSE_WAIT:
            self._session.leave()
        return state == _TCP_CLOSE

    def _held(self) -> int:
        return self._machine.held + self._unparsed_size + self._session.held

    def _must_pause(self) -> bool:
        waits = self._session.waiting > self._pipelined or self._unparsed_size > MOST_UNPARSED
        return waits or self._rests or self._connection.paused

    # --------------------------------------------------------------------------------------------- its life

    async def _run(self) -> None:
        try:
            await self._session.run(self._drained)
            if self._session.refused and not self._peer_ended.is_set() and not self._transport.is_closing():
                await self._linger()
        finally:
            self._transport.close()
            self._machine.discard()  # it may hold a large part of a message, and its peer may be slow to read the rest
            self._unparsed, self._unparsed_size = [], 0
            self._connections.keep(self._connection, 0)

    async def _linger(self) -> None:
        """End our side, then read on for a moment: closing with unread input would take the last answer back."""
        self._machine.discard()
        if self._paused:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._peer_ended.wait()

    def _drained(self) -> None:
        if self._connection.held:
            self._connections.keep(self._connection, self._held())
        if self._paused:
            self._read_on()

    def _rested(self, _turn: asyncio.Future[None]) -> None:
        self._rests = False
        self._read_on()

    def _read_on(self) -> None:
        if not self._paused or self._rests or self._transport.is_closing() or self._connection.paused:
            return
        if self._session.waiting <= self._pipelined // 2 and self._unparsed_size <= MOST_UNPARSED // 2:
            self._paused = False
            self._transport.resume_reading()
