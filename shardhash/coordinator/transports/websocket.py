"""The WebSocket transport, on aiohttp: a text message a line, a binary message a batch. Any path will do.

Compression is never negotiated: hashes do not compress, and a deflate context costs 64 KiB and 5-10 us a message.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import WSMessage, WSMsgType, web

from shardhash.base.tasks import BackgroundTasks
from shardhash.base.turns import Slice, Turns
from shardhash.coordinator.connection import Connection
from shardhash.coordinator.connections import Connections
from shardhash.coordinator.session import Session
from shardhash.coordinator.transports.watched import WatchedProtocol
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import Asked, BatchAsked, Event, Send
from shardhash.wire.frame_cutter import FrameCutter
from shardhash.wire.frames import (
    BINARY_MESSAGE,
    TEXT_MESSAGE,
    binary_message,
    text_fragment,
    text_frames,
)
from shardhash.wire.long_text import JsonPieces

_CONTROL_HEAD = 6
"""Bytes of a ping or pong of a client before its payload."""


class WebSocketHandler:
    """One WebSocket; an Output for its session."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        watched: WatchedProtocol,
        machine: ServerConnection,
        connection: Connection,
        connections: Connections,
        turns: Turns,
    ) -> None:
        """`transport`: what the socket writes to; `watched`: what reads from it."""
        self._socket = socket
        self._transport = transport
        self._watched = watched
        self._cutter = FrameCutter()
        self._waits = False
        """Whether aiohttp has nothing of what came in, and we wait for more."""
        self._machine = machine
        self._connection = connection
        self._connections = connections
        self._pipelined = connections.limits.pipelined
        self._turns = turns
        self._slice = Slice(turns)
        self._writing = Slice(turns)
        self._drain = asyncio.Event()
        self._session: Session

    async def run(self, session: Session) -> None:
        """Read and answer until either side ends."""
        self._session = session
        self._connection.busy = session.is_busy
        self._connection.resume = self._drain.set
        if self._watched.upgraded:
            self._watched.take = self._take
        reader = BackgroundTasks()
        reader.start(self._read(), "reading a WebSocket")
        try:
            await session.run(self._drained)
        finally:
            self._watched.take = None
            await reader.close()
            self._machine.discard()
            self._connections.keep(self._connection, 0)
            await self._socket.close()
            if (error := self._socket.exception()) is not None:
                error.__traceback__ = error.__context__ = None  # its frames hold the socket, which holds it

    async def _read(self) -> None:
        try:
            with suppress(ConnectionError):  # the peer went away before it was answered
                await self._read_all()
        finally:
            self._session.feed_lost()

    async def _read_all(self) -> None:
        connection = self._connection
        while True:
            message = await self._receive()
            connection.partial = 0
            self._connections.queue(connection, 0)
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            text = message.type is WSMsgType.TEXT
            machine = self._machine
            events = machine.receive_texts([message.data]) if text else machine.receive_messages([message.data])
            if machine.more:
                events += await self._receive_rest()
            if connection.fresh:
                self._tell_progress(events)
            if message.type is WSMsgType.BINARY and (frame := self._session.at_once.answer(events)) is not None:
                await self._socket.send_bytes(frame)
                if self._slice.used:
                    await self._slice.turn()
                continue
            if not self._begun(events):
                self._session.feed(events)
            self._connections.keep(connection, self._session.held)
            if self._slice.used:
                await self._slice.turn()
            while self._session.waiting > self._pipelined or connection.paused:
                self._drain.clear()
                await self._drain.wait()

    async def _receive(self) -> WSMessage:
        """The next message that is neither ping nor pong."""
        while True:
            self._waits = True
            message = await self._socket.receive()
            self._waits = False
            if message.type not in (WSMsgType.PING, WSMsgType.PONG):
                return message
            await self._pass(message)

    async def _pass(self, message: WSMessage) -> None:
        """Answer a ping, not a pong. It may come amidst a message, which then goes on being incomplete."""
        connection = self._connection
        connection.partial = max(0, connection.partial - _CONTROL_HEAD - len(message.data))
        self._connections.queue(connection, connection.partial)
        if message.type is WSMsgType.PING:
            await self._socket.pong(message.data)
        if self._slice.used:
            await self._slice.turn()

    def _take(self, data: bytes) -> bool:
        """Take what came in, if it is short messages and nothing waits before them; else aiohttp is to have it.

        What can be answered at once is answered here: no task, no future and no queue, which would be half of its cost.
        """
        frames = self._cutter.cut(data)
        if not frames or not self._may_take():
            self._waits = False
            return False
        kind, message = frames[0]
        if kind == BINARY_MESSAGE and len(frames) == 1:
            asked = self._machine.receive_batch(message)
            if asked is None:
                events = self._machine.receive_messages([message])
            elif (answer := self._session.at_once.answer_batch(asked)) is None:
                events = [BatchAsked(asked)]
            else:
                self._transport.write(binary_message(answer))
                return True
        elif kind == TEXT_MESSAGE and (len(frames) == 1 or all(first == TEXT_MESSAGE for first, _ in frames)):
            events = self._machine.receive_texts([text for _, text in frames])
            if (answer := self._session.at_once.answer(events)) is not None:
                self._transport.write(text_frames(answer.split(b"\n")[:-1]))
                return True
        else:
            self._waits = False
            return False
        if not self._begun(events):
            self._session.feed(events)
        self._connections.keep(self._connection, self._session.held)
        return True

    def _may_take(self) -> bool:
        connection = self._connection
        return (
            self._waits
            and self._session.at_once.idle
            and not connection.fresh
            and not connection.paused
            and self._session.waiting <= self._pipelined
            and self._watched.writable.is_set()
            and not (self._transport.is_closing() or self._socket.closed)
        )

    def _begun(self, events: list[Event]) -> bool:
        """Whether these events are a report that is answered once it is stored, and need not be fed."""
        if len(events) != 1 or type(event := events[0]) is not Asked or not self._watched.writable.is_set():
            return False
        return self._session.at_once.begin_report(event, self._write_json)

    def _write_json(self, text: bytes) -> None:
        if not (self._transport.is_closing() or self._socket.closed):
            self._transport.write(text_frames([text]))

    async def _receive_rest(self) -> list[Event]:
        """The events of what is left of a long message, a part of which is looked at at a time."""
        events: list[Event] = []
        while self._machine.more:
            await self._turns.next()
            events += self._machine.receive_data(b"")
        return events

    def _tell_progress(self, events: list[Event]) -> None:
        self._connection.greeted = self._machine.greeted
        if events and not all(type(event) is Send for event in events):
            self._connections.asked(self._connection)

    # ------------------------------------------------------------------------------------------------ Output

    async def send_raw(self, data: bytes) -> None:
        """See Output."""
        await self._socket.send_str(data.decode())

    async def send_json(self, value: object) -> None:
        """See Output."""
        pieces = JsonPieces(value)
        if pieces.whole is not None:
            await self._socket.send_str(pieces.whole.decode())
            return
        try:
            await self._write(text_fragment(b"", first=True, last=False))
            for piece in pieces:
                self._connections.keep_unwritten(self._connection, pieces.left)
                await self._write(text_fragment(piece, first=False, last=False))
                await self._turns.next()
            await self._write(text_fragment(b"", first=False, last=True))
        finally:
            self._connections.keep_unwritten(self._connection, 0)

    async def send_lines(self, lines: bytes) -> None:
        """See Output. A message for each line, all in one write: a system call for each would cost 5 us."""
        await self._write(text_frames(lines.split(b"\n")[:-1]))
        if self._writing.used:
            await self._writing.turn()

    async def _write(self, frames: bytes) -> None:
        if self._transport.is_closing() or self._socket.closed:
            raise ConnectionResetError("the peer is gone")
        self._transport.write(frames)
        if not self._watched.writable.is_set():
            self._connections.keep_unsent(self._connection, self._transport.get_write_buffer_size())
            await self._watched.writable.wait()
            if not self._transport.is_closing():
                self._connections.keep_unsent(self._connection, self._transport.get_write_buffer_size())

    async def send_frame(self, frame: bytes) -> None:
        """See Output."""
        await self._socket.send_bytes(frame)

    def _drained(self) -> None:
        self._connections.keep(self._connection, self._session.held)
        self._drain.set()
