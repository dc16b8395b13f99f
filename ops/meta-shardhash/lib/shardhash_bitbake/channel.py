"""Lines, JSON messages and binary frames over one connection: raw lines (TCP, unix) or WebSocket messages.

What is sent leaves with the next `receive`. Errors are OSError; ProtocolError is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from shardhash_bitbake import websocket
from shardhash_bitbake.address import Address
from shardhash_bitbake.dial import dial
from shardhash_bitbake.errors import ProtocolError
from shardhash_bitbake.stream import Stream

CHUNK_STREAM = b'{"chunk-stream": null}'
CHUNK = 32 * 1024
"""A JSON message of this many characters or more travels in pieces over raw lines."""
LINE_LIMIT = 1024 * 1024


class Channel(ABC):
    """A connection on which nothing has been said yet. Everything is bytes of UTF-8 without a newline."""

    binary = False
    """Whether `send_frame` works."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def begin(self, size: int) -> None:
        """A call begins that moves about `size` bytes; its limit of time starts."""
        self._stream.begin(size)

    @abstractmethod
    def send_lines(self, lines: Sequence[bytes]) -> None:
        """Send each line."""

    @abstractmethod
    def send_message(self, message: bytes) -> None:
        """Send a JSON message of ASCII letters."""

    def send_frame(self, frame: bytes) -> None:
        """Send a binary message, where `binary` says so."""
        raise NotImplementedError

    @abstractmethod
    def receive_line(self, limit: float | None = None) -> bytes:
        """The next line, whose first bytes come within `limit` seconds."""

    @abstractmethod
    def receive_message(self) -> bytes:
        """The next JSON message, or binary frame."""

    def close(self) -> None:
        """Say goodbye if that costs nothing, then close."""
        self._stream.close()

    def abandon(self) -> None:
        """Close without a word: after a failure, or because another process uses the connection."""
        self._stream.close()


class LineChannel(Channel):
    """Lines ended by newlines; long messages in pieces."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._lines: deque[bytes] = deque()
        self._rest = b""

    def send_lines(self, lines: Sequence[bytes]) -> None:
        self._stream.send(b"\n".join(lines) + b"\n")

    def send_message(self, message: bytes) -> None:
        if len(message) < CHUNK:
            self.send_lines([message])
            return
        size = CHUNK - 1
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        self.send_lines([CHUNK_STREAM, *pieces, b""])

    def receive_line(self, limit: float | None = None) -> bytes:
        while not self._lines:
            *lines, self._rest = (self._rest + self._stream.receive(limit)).split(b"\n")
            self._lines += lines
            if len(self._rest) > LINE_LIMIT:
                raise ProtocolError(f"the server sent a line of more than {LINE_LIMIT} bytes")
        return self._lines.popleft()

    def receive_message(self) -> bytes:
        line = self.receive_line()
        if line.replace(b" ", b"") != CHUNK_STREAM.replace(b" ", b""):
            return line
        pieces: list[bytes] = []
        size = 0
        while piece := self.receive_line():
            pieces.append(piece)
            size += len(piece)
            if size > websocket.MESSAGE_LIMIT:
                raise ProtocolError(f"the server sent a message of more than {websocket.MESSAGE_LIMIT} bytes")
        return b"".join(pieces)


class WebSocketChannel(Channel):
    """A WebSocket message for each line, JSON message or frame."""

    binary = True

    def __init__(self, stream: Stream, received: bytes) -> None:
        super().__init__(stream)
        self._reader = websocket.FrameReader(received)

    @classmethod
    def open(cls, stream: Stream, address: Address) -> WebSocketChannel:
        """Turn an HTTP connection into a WebSocket."""
        key = websocket.new_key()
        stream.send(websocket.encode_upgrade(address, key))
        received = b""
        while b"\r\n\r\n" not in received:
            if len(received) > websocket.HEAD_LIMIT:
                raise ProtocolError("the server answers the WebSocket upgrade without an end")
            received += stream.receive()
        head, _, rest = received.partition(b"\r\n\r\n")
        websocket.check_upgrade(head, key)
        return cls(stream, rest)

    def send_lines(self, lines: Sequence[bytes]) -> None:
        self._stream.send(websocket.encode_frames(websocket.TEXT, lines))

    def send_message(self, message: bytes) -> None:
        self._stream.send(websocket.encode_frame(websocket.TEXT, message))

    def send_frame(self, frame: bytes) -> None:
        self._stream.send(websocket.encode_frame(websocket.BINARY, frame))

    def receive_line(self, limit: float | None = None) -> bytes:
        while True:
            message = self._reader.next_message()
            if message is None:
                self._reader.feed(self._stream.receive(limit))
                continue
            opcode, data = message
            if opcode == websocket.CLOSE:
                reason = data[2:].decode(errors="replace")
                raise ConnectionResetError("the server closed the connection" + (f": {reason}" if reason else ""))
            if opcode == websocket.PING:
                self._stream.send(websocket.encode_frame(websocket.PONG, data))
            elif opcode != websocket.PONG:
                return data

    def receive_message(self) -> bytes:
        return self.receive_line()

    def close(self) -> None:
        try:
            self._stream.send(websocket.encode_frame(websocket.CLOSE, (1000).to_bytes(2, "big")))
            self._stream.begin(0)
            self._stream.flush()
        except OSError:
            pass  # it was gone already
        super().close()


def open_channel(address: Address, timeout: float) -> Channel:
    """Connect to an address. Raises OSError."""
    sock = dial(address, timeout)
    try:
        stream = Stream(sock, timeout)
        if address.kind in ("ws", "wss"):
            return WebSocketChannel.open(stream, address)
        return LineChannel(stream)
    except BaseException:
        sock.close()
        raise
