"""The line transports, raw TCP, TLS and unix sockets, as an asyncio protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

import orjson

from shardhash.base.sockets import keep_alive
from shardhash.coordinator.session import Session
from shardhash.wire.connection import ServerConnection
from shardhash.wire.framing import encode_json

LINGER = 1.0
"""Seconds that a peer whose connection we end has to end its side."""


class LineProtocol(asyncio.Protocol):
    """One raw connection; an Output for its session."""

    def __init__(
        self,
        connection: ServerConnection,
        open_session: Callable[[LineProtocol, str, asyncio.BaseTransport], Session],
        track: Callable[[asyncio.Task[None], Session], None],
        pipelined: int,
    ) -> None:
        self._connection = connection
        self._open_session = open_session
        self._track = track
        self._pipelined = pipelined
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._peer_ended = asyncio.Event()
        self._transport: asyncio.Transport
        self._session: Session

    # -------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        keep_alive(transport.get_extra_info("socket"))
        self._session = self._open_session(self, _peer(transport), transport)
        self._track(asyncio.get_running_loop().create_task(self._run()), self._session)

    def data_received(self, data: bytes) -> None:
        events = self._connection.receive_data(data)
        answer = (
            self._session.answer_at_hand(events)
            if self._writable.is_set() and not self._transport.is_closing()
            else None
        )
        if answer is not None:
            self._transport.write(answer)
            return
        self._session.feed(events)
        if self._session.waiting > self._pipelined and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._end_input()
        return self._transport.can_write_eof()  # keep our side open for the answers; TLS has no such thing

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end_input()
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
            await self._writable.wait()

    async def send_json(self, value: object) -> None:
        """See Output."""
        await self.send_raw(encode_json(orjson.dumps(value)))

    async def send_lines(self, lines: bytes) -> None:
        """See Output."""
        await self.send_raw(lines)

    async def send_frame(self, frame: bytes) -> None:
        """See Output; never asked for here, as binary requests cannot arrive."""
        raise NotImplementedError

    async def _run(self) -> None:
        try:
            await self._session.run(self._drained)
            if self._session.refused and not self._peer_ended.is_set() and not self._transport.is_closing():
                await self._linger()
        finally:
            self._transport.close()
            self._connection.discard()  # it may hold a large part of a message, and nothing here is freed soon

    async def _linger(self) -> None:
        """End our side, then read on for a moment: closing with unread input would take the last answer back."""
        if self._paused:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._peer_ended.wait()

    def _end_input(self) -> None:
        self._peer_ended.set()
        self._session.feed_end()

    def _drained(self) -> None:
        if self._paused and self._session.waiting <= self._pipelined // 2 and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix client"
