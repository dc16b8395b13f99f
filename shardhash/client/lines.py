"""The line transport: ``HOST:PORT``, ``tls://HOST:PORT`` and ``unix://PATH``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shardhash.client import json_text
from shardhash.client.byte_stream import ByteStream
from shardhash.client.transport import MESSAGE_LIMIT, Transport
from shardhash.errors import LimitError, ProtocolError
from shardhash.wire.framing import (
    ANNOUNCEMENT_LINE,
    CHUNK_STREAM,
    ChunkAssembler,
    LineSplitter,
    encode_json,
    encode_part,
)


class LineTransport(Transport):
    """Lines ended by newlines; long messages in pieces."""

    def __init__(self, stream: ByteStream, timeout: float) -> None:
        super().__init__(stream, timeout)
        self._splitter = LineSplitter(MESSAGE_LIMIT)
        self._lines: list[bytes] = []

    async def send_lines(self, lines: Sequence[str]) -> None:
        await self._send(("\n".join(lines) + "\n").encode())

    async def send_message(self, message: bytes) -> None:
        await self._send(encode_json(message))

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        await self._send(ANNOUNCEMENT_LINE)
        for piece in pieces:
            await self._send(encode_part(piece))
            await self._stream.rest()
        await self._send(b"\n")

    async def receive_lines(self, into: list[bytes], total: int) -> None:
        while (due := total - len(into)) > 0:
            self._begin()
            while not self._lines:
                self._lines += self._splitter.feed(await self._read())
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

    async def receive_parts(self, take: Callable[[bytes], None]) -> None:
        self._begin()
        line = await self._next_line()
        if not _announces_chunks(line):
            await self._give(line, take)
            return
        size = 0
        while piece := await self._next_line():
            size += len(piece)
            if size > MESSAGE_LIMIT:
                raise LimitError(f"a message is longer than {MESSAGE_LIMIT} bytes", "message")
            await self._give(piece, take)

    async def _next_line(self) -> bytes:
        while not self._lines:
            self._lines += self._splitter.feed(await self._read())
        return self._lines.pop(0)


def _announces_chunks(line: bytes) -> bool:
    """Whether a message line says that pieces follow. Any spelling of the JSON does."""
    if len(line) > 64 or CHUNK_STREAM.encode() not in line:
        return False
    try:
        return bool(json_text.decode(line) == {CHUNK_STREAM: None})
    except ValueError:
        raise ProtocolError("the server sent a message that is not JSON") from None
