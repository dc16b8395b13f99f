"""A connection to a server as bytes in order, in the clear or inside TLS: what all transports are made on.

Two kinds exist, one for each way to wait: on an event loop (event_loop.py) and in the thread that calls (in_thread.py).
They move bytes; TLS (tls.py) is a filter on top, the same for both. A proxy that is reached by TLS makes it two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from shardhash.wire.hashes import Buffer

if TYPE_CHECKING:  # ssl takes longer to import than a line to answer
    from ssl import SSLContext

    from shardhash.client.tls import Tls

READ_SIZE = 256 * 1024
"""Bytes taken from a socket at once."""

QUEUED = 256 * 1024
"""Bytes that may wait to be written while more are made."""

Work: TypeAlias = Coroutine[Any, Any, None]


class ByteStream(ABC):
    """A connected socket. Raises OSError: TimeoutError at the `end` of a wait, a time of `now`."""

    def __init__(self) -> None:
        self._filters: list[Tls] = []  # the first is next to the socket
        self._early = b""

    async def send(self, data: Buffer, end: float) -> None:
        """Send bytes; they may leave with the next `receive`."""
        if self._filters:
            self._put(data, len(self._filters))
        else:
            self._write(data)
        await self._drain(end)

    async def receive(self, end: float) -> bytes:
        """The next bytes, one at least. Raises ConnectionResetError when there are no more."""
        if self._early:
            early, self._early = self._early, b""
            return early
        if not self._filters:
            return await self._read(end)
        while True:
            if any(tls.ended for tls in self._filters):
                raise self.closed_by_server()
            data = await self._read(end)
            for place, tls in enumerate(self._filters):
                data = tls.decrypt(data)
                self._put(tls.take_output(), place)
            if data:
                return data

    async def start_tls(self, context: SSLContext, host: str, end: float) -> None:
        """From now on everything is inside TLS, with a server that proves to be `host`. Raises ssl.SSLError."""
        from shardhash.client.tls import Tls

        tls = Tls(context, host)
        done = tls.shake_hands(b"")
        while True:
            self._put(tls.take_output(), len(self._filters))
            await self._drain(end)
            if done:
                break
            data = await self.receive(end)
            try:
                done = tls.shake_hands(data)
            except OSError:
                self._put(tls.take_output(), len(self._filters))
                await self._drain(end, 0)  # so that the server hears why
                raise
        self._filters.append(tls)
        self._early = tls.decrypt(b"")  # what came along with the end of the handshake

    def say_goodbye(self) -> None:
        """Tell the server, if TLS is in between, that nothing more comes."""
        for place, tls in reversed(list(enumerate(self._filters))):
            self._put(tls.say_goodbye(), place)

    def _put(self, data: Buffer, filters: int) -> None:
        """Write bytes through the first filters."""
        for tls in reversed(self._filters[:filters]):
            data = tls.encrypt(data)
        if data:
            self._write(data)

    @staticmethod
    def closed_by_server() -> ConnectionResetError:
        """The error for a connection that the server has ended."""
        return ConnectionResetError("the server closed the connection")

    @abstractmethod
    def now(self) -> float:
        """The clock of `end`, seconds."""

    @abstractmethod
    def _write(self, data: Buffer) -> None:
        """Write bytes to the socket, now or soon."""

    @abstractmethod
    async def _drain(self, end: float, left: int = QUEUED) -> None:
        """Wait until at most about so many bytes are left to be written."""

    @abstractmethod
    async def _read(self, end: float) -> bytes:
        """The next bytes of the socket. Raises ConnectionResetError at its end."""

    @abstractmethod
    async def rest(self) -> None:
        """Let others run, where there are any, between parts of what is long."""

    @abstractmethod
    async def exchange(self, sending: Work, receiving: Work) -> None:
        """Send and receive at once: one after the other, two full socket buffers would wait for each other for ever."""

    @abstractmethod
    async def close(self, end: float) -> None:
        """Close when what was sent has left."""

    @abstractmethod
    async def abort(self) -> None:
        """Close at once, whatever is under way."""


async def in_turn(sending: Work, receiving: Work) -> None:
    """Send, then receive."""
    try:
        await sending
        await receiving
    finally:
        receiving.close()
