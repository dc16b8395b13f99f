"""Waiting in the thread that calls: coroutines that never give up control, run without an event loop.

Streams write while they wait for answers, so that however much is asked at once, two full socket buffers never wait for
each other.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from shardhash.client.byte_stream import QUEUED, READ_SIZE, ByteStream, Work, in_turn
from shardhash.client.waiting import Resolved, Waiting, ascii_host
from shardhash.wire.hashes import Buffer

MOST_UNREAD = 256 * 1024 * 1024
"""Bytes of answers that are taken in while there is still something to be written."""

_T = TypeVar("_T")


class InThread(Waiting):
    """Waits in the thread that calls, which is one at a time."""

    def __init__(self) -> None:
        self.end = math.inf
        """When the innermost limit is over."""

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What a coroutine returns."""
        self.end = math.inf
        try:
            work.send(None)
        except StopIteration as done:
            result: _T = done.value
            return result
        work.close()
        raise RuntimeError("a coroutine gave up control, and no event loop is here to go on with it")

    def now(self) -> float:
        return time.monotonic()

    def lock(self) -> NoLock:
        return NoLock()

    def limit(self, seconds: float | None) -> ThreadLimit:
        return ThreadLimit(self, seconds)

    def check_limits(self) -> None:
        self.left(math.inf)

    def left(self, end: float) -> float:
        """Seconds until a time or a limit, whichever comes first. Raises TimeoutError when there are none."""
        left = min(end, self.end) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    async def sleep(self, seconds: float) -> None:
        if seconds:
            time.sleep(min(seconds, self.left(math.inf)))  # noqa: ASYNC251  # no event loop waits for it

    async def resolve(self, host: str, port: int, end: float) -> Resolved:
        name = ascii_host(host)
        try:
            return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return self._look_up(name, port, end)

    def _look_up(self, name: str | bytes, port: int, end: float) -> Resolved:
        """Ask the resolver, which knows no limit of time: so another thread does, and is left alone when it is late."""
        found: list[Resolved] = []
        failed: list[OSError] = []

        def ask() -> None:
            try:
                found.append(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
            except OSError as error:
                failed.append(error)

        asker = threading.Thread(target=ask, daemon=True)
        asker.start()
        asker.join(self.left(end))
        if failed:
            raise failed[0]
        if not found:
            raise TimeoutError
        return found[0]

    async def connect(self, connection: socket.socket, place: Any, end: float) -> None:
        left = self.left(end)
        if connection.family != socket.AF_UNIX:
            connection.settimeout(left)
            connection.connect(place)
            return
        # A server that is slow to accept makes a unix socket wait in `connect` or, without blocking, fail.
        connection.setblocking(True)
        seconds, rest = divmod(left, 1)
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6) + 1)
        )
        try:
            connection.connect(place)
        except BlockingIOError:
            raise TimeoutError from None

    async def stream(self, connection: socket.socket) -> ByteStream:
        return SocketStream(connection, self)


class NoLock:
    """The lock of a client whose calls take turns already."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


class ThreadLimit:
    """A limit of time that waits inside it look at."""

    def __init__(self, thread: InThread, seconds: float | None) -> None:
        self._thread = thread
        self._seconds = seconds
        self._end = self._outer = math.inf
        self._expired = False

    async def __aenter__(self) -> Self:
        self._outer = self._thread.end
        if self._seconds is not None:
            self._end = time.monotonic() + self._seconds
            self._thread.end = min(self._outer, self._end)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.end = self._outer
        self._expired = kind is not None and issubclass(kind, TimeoutError) and time.monotonic() >= self._end

    def expired(self) -> bool:
        """Whether it ended what ran inside it."""
        return self._expired


class SocketStream(ByteStream):
    """A socket that is waited for by poll."""

    def __init__(self, connection: socket.socket, thread: InThread) -> None:
        super().__init__()
        connection.setblocking(False)
        self._socket = connection
        self._thread = thread
        self._poll = select.poll()
        self._out = bytearray()
        self._in: deque[bytes] = deque()
        self._size = 0
        self._failure: OSError | None = None
        """Why nothing more comes."""
        self._late = -math.inf
        """When a wait last began after its end."""

    def now(self) -> float:
        return time.monotonic()

    def _write(self, data: Buffer) -> None:
        self._out += data

    async def _drain(self, end: float, left: int = QUEUED) -> None:
        # What is left leaves with the next read: one wait instead of two.
        if len(self._out) > left:
            self._send()
        while len(self._out) > left and self._failure is None:
            self._wait(end)
            self._send()

    async def _read(self, end: float) -> bytes:
        while not self._in:
            if self._failure is not None:
                raise self._failure
            self._send()
            self._wait(end)
        data = self._in.popleft()
        self._size -= len(data)
        return data

    def _wait(self, end: float) -> None:
        """Wait until something can be written, if something is to be, or has come, and read that.

        A thread that was stopped until the end was over looks once all the same: what it waits for may be there. Only
        once until an end that was still to come then, so that a server that trickles holds nobody.
        """
        end, now = min(end, self._thread.end), time.monotonic()
        if end <= now:
            if end <= self._late:
                raise TimeoutError
            self._late = now
        events = (select.POLLIN if self._size < MOST_UNREAD else 0) | (select.POLLOUT if self._out else 0)
        self._poll.register(self._socket, events)
        found = self._poll.poll(max(0.0, end - now) * 1000)
        if not found:
            raise TimeoutError
        if found[0][1] & ~select.POLLOUT:
            self._receive()

    def _send(self) -> None:
        while self._out:
            try:
                with memoryview(self._out) as view:
                    count = self._socket.send(view[:READ_SIZE])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                # What the server said before it closed, a refusal perhaps, is still to be read.
                self._out.clear()
                return
            del self._out[:count]

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._failure = error
            return
        if data:
            self._in.append(data)
            self._size += len(data)
        else:
            self._failure = self.closed_by_server()

    async def rest(self) -> None:
        pass  # nobody else runs here

    async def exchange(self, sending: Work, receiving: Work) -> None:
        await in_turn(sending, receiving)

    async def close(self, end: float) -> None:
        try:
            await self._drain(end, 0)
        except OSError:
            pass  # the server is gone, or does not listen any more
        self._socket.close()

    async def abort(self) -> None:
        self._socket.close()
