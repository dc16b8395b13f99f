"""How lines, JSON messages and binary frames travel to a server: one interface, an implementation a kind of address.

A `Transport` keeps no protocol state. It raises OSError (ConnectionError, TimeoutError) when the connection fails and
ProtocolError when what arrives cannot be framed; after either, and after a cancelled call, it is of no more use.
Each wait has a limit of `timeout` seconds without progress, more for what is large (`SLOWEST`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from shardhash.client.byte_stream import ByteStream, Work
from shardhash.wire.hashes import Buffer

MESSAGE_LIMIT = 64 * 1024 * 1024
"""Most bytes of a message that a server may send."""
GIVEN_AT_ONCE = 64 * 1024
"""Bytes of a message that is given in parts."""
SLOWEST = 16 * 1024
"""Bytes a second; a link that is slower than this may run into the time limit."""

GOODBYE_WITHIN = 2.0
"""Seconds that a goodbye may take to leave."""


class Transport(ABC):
    """One connection, as messages in order. Lines and messages are UTF-8 without a newline."""

    binary = False
    """Whether binary frames can be sent."""

    def __init__(self, stream: ByteStream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._until = math.inf
        self._begin()

    def patience(self, size: int) -> float:
        """Seconds that `size` bytes may take."""
        return self._timeout + size / SLOWEST

    def _begin(self) -> None:
        """Begin to wait for what comes next. The time limit counts from here: no server holds a call by trickling."""
        self._began = self._stream.now()
        self._received = 0

    async def _read(self) -> bytes:
        """Wait for more bytes; they may complete nothing yet."""
        data = await self._stream.receive(min(self._began + self.patience(self._received), self._until))
        self._received += len(data)
        return data

    async def _send(self, data: Buffer) -> None:
        await self._stream.send(data, self._stream.now() + self.patience(len(data)))

    @abstractmethod
    async def send_lines(self, lines: Sequence[str]) -> None:
        """Send each line."""

    @abstractmethod
    async def send_message(self, message: bytes) -> None:
        """Send a JSON message."""

    @abstractmethod
    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send a JSON message in pieces, none of which cuts a character in two; others run between them."""

    async def send_frame(self, frame: bytes) -> None:
        """Send a binary frame, where `binary` says that it can be sent."""
        raise NotImplementedError

    @abstractmethod
    async def receive_lines(self, into: list[bytes], total: int) -> None:
        """Append lines to `into` until it holds `total`; what has arrived before a failure is in it too."""

    async def receive_line_within(self, seconds: float) -> bytes:
        """The next line. Raises TimeoutError also when it takes longer than this."""
        lines: list[bytes] = []
        self._until = self._stream.now() + seconds
        try:
            await self.receive_lines(lines, 1)
        finally:
            self._until = math.inf
        return lines[0]

    @abstractmethod
    async def receive_message(self) -> bytes:
        """The next JSON message."""

    @abstractmethod
    async def receive_parts(self, take: Callable[[bytes], None]) -> None:
        """Give `take` the next JSON message in parts; others run between them."""

    async def _give(self, data: bytes, take: Callable[[bytes], None]) -> None:
        for start in range(0, len(data), GIVEN_AT_ONCE):
            take(data[start : start + GIVEN_AT_ONCE])
            await self._stream.rest()

    async def receive_frame(self) -> bytes:
        """The next message: a binary frame, or (a refusal) the bytes of a text."""
        raise NotImplementedError

    async def exchange(self, sending: Work, receiving: Work) -> None:
        """Send and receive at once, where more is sent than buffers may hold."""
        await self._stream.exchange(sending, receiving)

    async def close(self) -> None:
        """Say goodbye, then close."""
        self._stream.say_goodbye()
        await self._stream.close(self._stream.now() + GOODBYE_WITHIN)

    async def abort(self) -> None:
        """Close at once, whatever is under way."""
        await self._stream.abort()
