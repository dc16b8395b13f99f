"""WebSocket frames and the opening handshake (RFC 6455), the client's side. Pure: bytes in, bytes out.

No extensions: hashes do not compress. What is masked is masked as one large integer, which is at C speed.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence

from shardhash_bitbake.address import Address, host_and_port
from shardhash_bitbake.dial import basic_authorization
from shardhash_bitbake.errors import ProtocolError

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_FINAL = 0x80
_MASKED = 0x80
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3

MESSAGE_LIMIT = 64 * 1024 * 1024
"""Most bytes of a message that a server may send."""
HEAD_LIMIT = 64 * 1024
"""Most bytes of the answer to the upgrade."""


def mask(data: bytes, key: bytes) -> bytes:
    """Data XORed with a key of 4 bytes, over and over (section 5.3); about 1 ns a byte."""
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def encode_frame(opcode: int, data: bytes, key: bytes | None = None) -> bytes:
    """One whole message, masked as a client must."""
    return encode_frames(opcode, [data], key)


def encode_frames(opcode: int, messages: Sequence[bytes], keys: bytes | None = None) -> bytes:
    """Several messages in a row; about 2 us each. `keys` has 4 bytes for each, and is random by default."""
    keys = os.urandom(4 * len(messages)) if keys is None else keys
    parts: list[bytes] = []
    for number, data in enumerate(messages):
        key = keys[4 * number : 4 * number + 4]
        size = len(data)
        if size < 126:
            head = bytes((_FINAL | opcode, _MASKED | size))
        elif size < 1 << 16:
            head = bytes((_FINAL | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((_FINAL | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
        parts += (head, key, mask(data, key))
    return b"".join(parts)


class FrameReader:
    """Takes bytes as they arrive, gives messages: (TEXT, BINARY, CLOSE, PING or PONG, data). Raises ProtocolError."""

    def __init__(self, data: bytes = b"", limit: int = MESSAGE_LIMIT) -> None:
        self._buffer = bytearray(data)
        self._limit = limit
        self._opcode: int | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._buffer += data

    def next_message(self) -> tuple[int, bytes] | None:
        """The next whole message; None until more bytes arrive."""
        while (frame := self._next_frame()) is not None:
            final, opcode, data = frame
            if opcode >= CLOSE:
                return opcode, data
            if (opcode == _CONTINUATION) == (self._opcode is None):
                raise ProtocolError("the server sent a part of a message out of order")
            if opcode != _CONTINUATION:
                self._opcode = opcode
            self._parts.append(data)
            self._size += len(data)
            if final and self._opcode is not None:
                whole = (self._opcode, b"".join(self._parts))
                self._opcode, self._parts, self._size = None, [], 0
                return whole
        return None

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, opcode = bool(buffer[0] & _FINAL), buffer[0] & 0x0F
        self._check_head(buffer[0], buffer[1], opcode)
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        if self._size + size > self._limit:
            raise ProtocolError(f"the server sent a message of more than {self._limit} bytes")
        if len(buffer) < start + size:
            return None
        data = bytes(buffer[start : start + size])
        del buffer[: start + size]
        return final, opcode, data

    def _check_head(self, first: int, second: int, opcode: int) -> None:
        if first & 0x70:
            raise ProtocolError("the server sent a frame of an extension that was not agreed on")
        if second & _MASKED:
            raise ProtocolError("the server sent a masked frame")
        if opcode not in (_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(f"the server sent a frame of the unknown kind {opcode}")
        if opcode >= CLOSE and (not first & _FINAL or second & 0x7F > 125):
            raise ProtocolError("the server sent a control frame that is long or in parts")


# -- the opening handshake -------------------------------------------------------------------------------------------


def new_key() -> str:
    """A Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def encode_upgrade(address: Address, key: str) -> bytes:
    """The request that turns an HTTP connection into a WebSocket."""
    usual = address.port == (443 if address.kind == "wss" else 80)
    host = host_and_port(address)
    lines = [
        f"GET {address.path} HTTP/1.1",
        f"Host: {host.rpartition(':')[0] if usual else host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if address.user:
        lines.append(f"Authorization: {basic_authorization(address.user)}")
    return "\r\n".join([*lines, "", ""]).encode()


def accept_of(key: str) -> str:
    """What a server that understood the key answers (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def check_upgrade(head: bytes, key: str) -> None:
    """Raise ProtocolError unless the head of an HTTP answer, which ends with an empty line, agrees to the upgrade."""
    status, *lines = head.decode("latin-1").split("\r\n")
    version, _, reason = status.partition(" ")
    if not version.startswith("HTTP/1.1"):
        raise ProtocolError(f"what listens there is no WebSocket server: it answered {status[:80]!r}")
    if reason.split(" ")[0] != "101":
        raise ProtocolError(f"the server refused the WebSocket: {reason[:80]}; check host and path of BB_HASHSERVE")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("sec-websocket-accept") != accept_of(key) or "sec-websocket-extensions" in headers:
        raise ProtocolError(
            "the server answered the WebSocket upgrade of another connection; a proxy may be in between"
        )
