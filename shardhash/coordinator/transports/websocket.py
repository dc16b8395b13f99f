"""The WebSocket transport, on aiohttp: a text message a line, a binary message a batch. Any path will do.

Compression is never negotiated: hashes do not compress, and a deflate context costs 64 KiB and 5-10 us a message.
"""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import WSMsgType, web

from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.session import Session
from shardhash.wire.connection import ServerConnection


class WebSocketHandler:
    """One WebSocket; an Output for its session."""

    def __init__(self, socket: web.WebSocketResponse, connection: ServerConnection, pipelined: int) -> None:
        self._socket = socket
        self._connection = connection
        self._pipelined = pipelined
        self._drain = asyncio.Event()
        self._session: Session

    async def run(self, session: Session) -> None:
        """Read and answer until either side ends."""
        self._session = session
        reader = BackgroundTasks()
        reader.start(self._read(), "reading a WebSocket")
        try:
            await session.run(self._drained)
        finally:
            await reader.close()
            self._connection.discard()
            await self._socket.close()

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                events = self._connection.receive_message(message.data)
                if message.type is WSMsgType.BINARY and (frame := self._session.answer_at_hand(events)) is not None:
                    await self._socket.send_bytes(frame)
                    continue
                self._session.feed(events)
                while self._session.waiting > self._pipelined:
                    self._drain.clear()
                    await self._drain.wait()
        finally:
            self._session.feed_end()

    # ------------------------------------------------------------------------------------------------ Output

    async def send_raw(self, data: bytes) -> None:
        """See Output."""
        await self._socket.send_str(data.decode())

    async def send_json(self, value: object) -> None:
        """See Output."""
        await self._socket.send_str(orjson.dumps(value).decode())

    async def send_lines(self, lines: bytes) -> None:
        """See Output."""
        for line in lines.decode().split("\n")[:-1]:
            await self._socket.send_str(line)

    async def send_frame(self, frame: bytes) -> None:
        """See Output."""
        await self._socket.send_bytes(frame)

    def _drained(self) -> None:
        self._drain.set()
