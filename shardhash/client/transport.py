"""How lines, JSON messages and binary frames travel to a server: one interface, an implementation a kind of socket.

A `Transport` keeps no protocol state. It raises OSError (ConnectionError, TimeoutError) when the connection fails and
ProtocolError when what arrives cannot be framed; after either, and after a cancelled call, it is of no more use.
Each wait has a limit of `timeout` seconds without progress, more for what is large (`SLOWEST`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

import orjson

from shardhash.errors import ProtocolError
from shardhash.wire.framing import CHUNK_STREAM, ChunkAssembler, LineSplitter, encode_json

MESSAGE_LIMIT = 64 * 1024 * 1024
"""Most bytes of a message that a server may send."""
SLOWEST = 16 * 1024
"""Bytes a second; a link that is slower than this may run into the time limit."""
READ_SIZE = 256 * 1024
"""Bytes taken from a socket at once."""


class Transport(ABC):
    """One connection, as messages in order. Lines and messages are UTF-8 without a newline."""

    binary = False
    """Whether binary frames can be sent."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def patience(self, size: int) -> float:
        """Seconds that `size` bytes may take."""
        return self._timeout + size / SLOWEST

    @abstractmethod
    async def send_lines(self, lines: Sequence[str]) -> None:
        """Send each line."""

    @abstractmethod
    async def send_message(self, message: bytes) -> None:
        """Send a JSON message."""

    async def send_frame(self, frame: bytes) -> None:
        """Send a binary frame, where `binary` says that it can be sent."""
        raise NotImplementedError

    @abstractmethod
    async def receive_lines(self, into: list[bytes], total: int) -> None:
        """Append lines to `into` until it holds `total`; what has arrived before a failure is in it too."""

    @abstractmethod
    async def receive_message(self) -> bytes:
        """The next JSON message."""

    async def receive_frame(self, size: int) -> bytes:
        """The next message, which is about `size` bytes long: a binary frame, or (a refusal) the bytes of a text."""
        raise NotImplementedError

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye, then close."""

    @abstractmethod
    async def abort(self) -> None:
        """Close at once, whatever is under way."""


class LineTransport(Transport):
    """Lines over a stream socket: ``HOST:PORT``, ``tls://HOST:PORT`` and ``unix://PATH``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        super().__init__(timeout)
        self._reader = reader
        self._writer = writer
        self._splitter = LineSplitter(MESSAGE_LIMIT)
        self._lines: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        """Begin to wait for what comes next. The time limit counts from here: no server holds a call by trickling."""
        self._began = asyncio.get_running_loop().time()
        self._received = 0

    async def send_lines(self, lines: Sequence[str]) -> None:
        await self._send(("\n".join(lines) + "\n").encode())

    async def send_message(self, message: bytes) -> None:
        await self._send(encode_json(message))

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(self.patience(len(data))):
            await self._writer.drain()

    async def receive_lines(self, into: list[bytes], total: int) -> None:
        while (due := total - len(into)) > 0:
            self._begin()
            while not self._lines:
                await self._read()
            into += self._lines[:due]
            del self._lines[:due]

    async def receive_message(self) -> bytes:
        self._begin()
        line = await self._next_line()
        if not _announces_chunks(line):
            return line
        assembler = ChunkAssembler(MESSAGE_LIMIT)
        while (message := assembler.feed(await self._next_line())) is None:
            pass
        return message

    async def _next_line(self) -> bytes:
        while not self._lines:
            await self._read()
        return self._lines.pop(0)

    async def _read(self) -> None:
        """Wait for more bytes; they may complete no line yet."""
        async with asyncio.timeout_at(self._began + self.patience(self._received)):
            data = await self._reader.read(READ_SIZE)
        self._received += len(data)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._lines += self._splitter.feed(data)

    async def close(self) -> None:
        # Closing a socket waits for nobody: what was written is still sent by the kernel.
        self._writer.close()
        try:
            async with asyncio.timeout(self._timeout):
                await self._writer.wait_closed()
        except OSError:
            pass  # it was closed already, by the other side

    async def abort(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)  # lets the loop close the socket


def _announces_chunks(line: bytes) -> bool:
    """Whether a message line says that pieces follow. Any spelling of the JSON does."""
    if len(line) > 64 or CHUNK_STREAM.encode() not in line:
        return False
    try:
        return bool(orjson.loads(line) == {CHUNK_STREAM: None})
    except orjson.JSONDecodeError:
        raise ProtocolError("the server sent a message that is not JSON") from None
