"""Waiting on the event loop of asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from socket import SOCK_STREAM, socket
from typing import Any, cast

from shardhash.client.byte_stream import QUEUED, READ_SIZE, ByteStream, Work
from shardhash.client.waiting import Resolved, Waiting, ascii_host
from shardhash.wire.hashes import Buffer


class EventLoop(Waiting):
    """Waits on the event loop that runs."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    def limit(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(seconds)

    def check_limits(self) -> None:
        pass  # the loop ends what is over a limit

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def resolve(self, host: str, port: int, end: float) -> Resolved:
        async with asyncio.timeout_at(end):
            return await asyncio.get_running_loop().getaddrinfo(ascii_host(host), port, type=SOCK_STREAM)

    async def connect(self, connection: socket, place: Any, end: float) -> None:
        connection.setblocking(False)
        async with asyncio.timeout_at(end):
            await asyncio.get_running_loop().sock_connect(connection, place)

    async def stream(self, connection: socket) -> ByteStream:
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(lambda: LoopStream(loop), sock=connection)
        return stream


class LoopStream(ByteStream, asyncio.Protocol):
    """A socket that the event loop watches. One task may read while another writes.

    A protocol of its own, because a message takes asyncio's StreamReader and StreamWriter a third more CPU.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._in: deque[bytes] = deque()
        self._size = 0
        self._full = False
        self._failure: Exception | None = None
        """Why nothing more comes."""
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._writable = True
        self._lost = loop.create_future()

    # -- what the event loop calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        self._in.append(data)
        self._size += len(data)
        if self._size > READ_SIZE and not self._full:
            self._full = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._failure = self.closed_by_server()
        _wake(self._reader)
        return False  # the loop closes the connection

    def connection_lost(self, error: Exception | None) -> None:
        self._failure = self._failure or error or self.closed_by_server()
        self._writable = True
        _wake(self._reader)
        _wake(self._writer)
        _wake(self._lost)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        _wake(self._writer)

    # -- what a transport calls ------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._loop.time()

    def _write(self, data: Buffer) -> None:
        if not self._transport.is_closing():  # else `_read` tells it, behind what the server had to say
            self._transport.write(data)

    async def _drain(self, end: float, left: int = QUEUED) -> None:  # noqa: ARG002  # the loop has a limit of its own
        while not self._writable:
            self._writer = self._loop.create_future()
            await self._wait(self._writer, end)

    async def _read(self, end: float) -> bytes:
        while not self._in:
            if self._failure is not None:
                raise self._failure
            self._reader = self._loop.create_future()
            await self._wait(self._reader, end)
        data = self._in.popleft()
        self._size -= len(data)
        if self._full and not self._in:
            self._full = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    async def _wait(self, waiter: asyncio.Future[None], end: float) -> None:
        """Wait until the future is done. Like asyncio.timeout_at, for a fifth of its time."""
        late = self._loop.call_at(end, _give_up, waiter)
        try:
            await waiter
        finally:
            late.cancel()

    async def rest(self) -> None:
        await asyncio.sleep(0)

    async def exchange(self, sending: Work, receiving: Work) -> None:
        sender = asyncio.ensure_future(sending)
        try:
            # When sending fails so does the connection, and the receiver learns it, after any refusal that came before.
            await receiving
            await sender
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def close(self, end: float) -> None:
        # Closing a socket waits for nobody: what was written is still sent by the kernel.
        self._transport.close()
        try:
            await self._wait(self._lost, end)
        except OSError:
            self._transport.abort()

    async def abort(self) -> None:
        if not self._lost.done():  # asyncio's transports fail at it if they ended while the last of their data was sent
            self._transport.abort()
        await asyncio.sleep(0)  # lets the loop close the socket


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
