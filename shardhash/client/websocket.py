"""The WebSocket transport: ``ws://HOST:PORT[/path]`` and ``wss://...``.

Every line and every JSON message is one text message, never chunked; a native batch is one binary message.
permessage-deflate is not offered: hashes do not compress, and trying costs more than sending them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from shardhash.client.byte_stream import ByteStream
from shardhash.client.transport import GOODBYE_WITHIN, MESSAGE_LIMIT, Transport
from shardhash.errors import ProtocolError, WrongKindError
from shardhash.wire import websocket
from shardhash.wire.address import Address
from shardhash.wire.hashes import Buffer
from shardhash.wire.websocket import BINARY, CLOSE, CONTINUATION, MASK_SIZE, PING, PONG, TEXT

HEAD_LIMIT = 64 * 1024
"""Most bytes of an HTTP answer before its empty line."""
_END_OF_HEAD = b"\r\n\r\n"


class WebSocketTransport(Transport):
    """Messages over a WebSocket."""

    binary = True

    def __init__(self, stream: ByteStream, timeout: float, received: bytes) -> None:
        super().__init__(stream, timeout)
        self._reader = websocket.FrameReader(MESSAGE_LIMIT)
        self._reader.feed(received)

    @classmethod
    async def open(
        cls, stream: ByteStream, address: Address, timeout: float, *, by_proxy: bool = False, authorization: str = ""
    ) -> Self:
        """Turn an HTTP connection into a WebSocket (wire/websocket.py has `by_proxy`, `authorization`)."""
        end = stream.now() + timeout
        key = websocket.key_text(os.urandom(websocket.KEY_SIZE))
        upgrade = websocket.encode_upgrade(address, key, by_proxy=by_proxy, authorization=authorization)
        await stream.send(upgrade, end)
        try:
            head, rest = await receive_head(stream, end)
        except ConnectionResetError as error:
            if by_proxy:
                raise
            raise WrongKindError(
                "the server closed the connection instead of opening a WebSocket, so perhaps this address speaks lines"
            ) from error
        websocket.check_upgrade(head, key)
        return cls(stream, timeout, rest)

    async def send_lines(self, lines: Sequence[str]) -> None:
        # A message a line is what the protocol says; about 3 us each.
        await self._send_frames(TEXT, [line.encode() for line in lines])

    async def send_message(self, message: bytes) -> None:
        await self._send_frames(TEXT, [message])

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        kind = TEXT
        for piece in pieces:
            await self._send(websocket.encode_frames(kind, [piece], os.urandom(MASK_SIZE), final=False))
            await self._stream.rest()
            kind = CONTINUATION
        await self._send(websocket.encode_frames(kind, [b""], os.urandom(MASK_SIZE)))

    async def send_frame(self, frame: bytes) -> None:
        await self._send_frames(BINARY, [frame])

    async def _send_frames(self, opcode: int, messages: Sequence[bytes]) -> None:
        await self._send(_masked(opcode, messages))

    async def receive_lines(self, into: list[bytes], total: int) -> None:
        while len(into) < total:
            self._begin()
            into.append(await self._receive(TEXT))

    async def receive_message(self) -> bytes:
        self._begin()
        return await self._receive(TEXT)

    async def receive_parts(self, take: Callable[[bytes], None]) -> None:
        self._begin()
        for part in await self._receive_data(TEXT):
            await self._give(part, take)

    async def receive_frame(self) -> bytes:
        self._begin()
        return await self._receive(TEXT, BINARY)

    async def _receive(self, *kinds: int) -> bytes:
        """The bytes of the next message, which must be of one of these kinds."""
        parts = await self._receive_data(*kinds)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _receive_data(self, *kinds: int) -> list[bytes]:
        """The same, in the parts in which they came."""
        while True:
            if (message := self._reader.next_parts()) is None:
                data = await self._read()
                if (message := self._reader.whole(data)) is None:
                    self._reader.feed(data)
                    continue
            opcode, parts = message
            if opcode in kinds:
                return parts
            data = b"".join(parts)
            if opcode == CLOSE:
                raise _closed(data)
            if opcode == PING:
                await self._send_frames(PONG, [data])
            if opcode in (PING, PONG):
                # They are no progress: a server that sends nothing else is given up like a silent one.
                self._received -= len(data) + websocket.CONTROL_HEAD
                continue
            kind = "binary" if opcode == BINARY else "text"
            raise ProtocolError(f"the server sent a {kind} message where another kind is expected")

    async def close(self) -> None:
        try:
            await self._stream.send(_masked(CLOSE, [websocket.NORMAL_END]), self._stream.now() + GOODBYE_WITHIN)
        except OSError:
            pass  # it was gone already
        await super().close()


def _masked(opcode: int, messages: Sequence[bytes]) -> Buffer:
    return websocket.encode_frames(opcode, messages, os.urandom(MASK_SIZE * len(messages)))


async def receive_head(stream: ByteStream, end: float) -> tuple[bytes, bytes]:
    """The head of an HTTP answer, without its empty line, and what came behind it."""
    received = b""
    while _END_OF_HEAD not in received:
        if len(received) > HEAD_LIMIT:
            raise ProtocolError(f"an HTTP answer begins with more than {HEAD_LIMIT} bytes of headers")
        received += await stream.receive(end)
    head, _, rest = received.partition(_END_OF_HEAD)
    return head, rest


def _closed(data: bytes) -> ConnectionResetError:
    """The error for a goodbye, with the server's reason if it gives one."""
    error = ByteStream.closed_by_server()
    reason = data[2:].decode(errors="replace")
    if not reason:
        return error
    from shardhash.base.text import printable  # and logging with it, which takes a while

    return ConnectionResetError(f"{error}: {printable(reason)}")
