"""WebSockets (RFC 6455), the client's side: frames and the opening handshake. Pure: bytes in, bytes out.

No extensions: hashes do not compress. Masks are applied without a Python loop over bytes. Random bytes are given by the
caller.
"""

from __future__ import annotations

import hashlib
import sys
from binascii import b2a_base64
from collections.abc import Sequence

from shardhash.errors import ProtocolError
from shardhash.wire.address import Address
from shardhash.wire.frames import frame_head
from shardhash.wire.hashes import Buffer

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY_SIZE = 16
"""Random bytes of an opening handshake..."""
MASK_SIZE = 4
"""...and of each frame."""
CONTROL_HEAD = 2
"""Bytes before the data of a ping."""
NORMAL_END = (1000).to_bytes(2, "big")
"""The data of a goodbye."""

LONG = 4096
"""Bytes from which on the quickest way to mask is another."""

_ALL_BYTES = bytes(range(256))
_FINAL = 0x80
_WHOLE = (_FINAL | TEXT, _FINAL | BINARY)
_MASKED = 0x80
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_REDIRECTS = ("301", "302", "303", "307", "308")


def mask(data: bytes, key: bytes) -> bytes:
    """Data XORed with a key of 4 bytes, over and over (section 5.3); up to 2 ns a byte."""
    if len(data) >= LONG:
        return _mask_by_lanes(data, key)
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def _mask_by_lanes(data: bytes, key: bytes) -> bytes:
    """Every fourth byte by a table of its own; 1 ns a byte."""
    masked = bytearray(len(data))
    for lane, byte in enumerate(key):
        masked[lane::4] = data[lane::4].translate(mask(_ALL_BYTES, bytes([byte]) * 4))
    return bytes(masked)


def encode_frames(opcode: int, messages: Sequence[bytes], keys: bytes, *, final: bool = True) -> Buffer:
    """Whole messages in a row, masked as a client must; about 2 us each. `keys`: MASK_SIZE random bytes for each.

    Without `final` they are parts of a message; those behind the first are each a CONTINUATION.
    """
    parts: list[Buffer] = []
    for number, data in enumerate(messages):
        key = keys[MASK_SIZE * number : MASK_SIZE * (number + 1)]
        head = frame_head((_FINAL if final else 0) | opcode, len(data), _MASKED)
        if len(data) >= LONG and "numpy" in sys.modules:
            parts.append(_mask_in_place(head, key, data))
        else:
            parts += (head, key, mask(data, key))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _mask_in_place(head: bytes, key: bytes, data: bytes) -> memoryview:
    """A frame by numpy, if the process has that already: its import takes 100 ms. 0.1 ns a byte, and copies once."""
    import numpy as np

    start = -(-len(head + key) // 4) * 4  # so that words of the data are aligned
    frame = bytearray(start + len(data) + -len(data) % 4)
    begin = start - len(head + key)
    frame[begin:start] = head + key
    frame[start : start + len(data)] = data
    words = np.frombuffer(frame, np.uint32, offset=start)
    words ^= np.frombuffer(key, np.uint32)
    return memoryview(frame)[begin : start + len(data)]


class FrameReader:
    """Takes bytes as they arrive, gives messages of at most `limit` bytes. Raises ProtocolError."""

    __slots__ = ("_buffer", "_head", "_limit", "_missing", "_opcode", "_parts", "_pieces", "_size")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._head = (False, 0)
        self._missing = 0
        """Bytes that a long frame still lacks; what there is of it is in pieces, so that it is copied only once."""
        self._pieces: list[bytes] = []
        self._opcode: int | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        if self._missing:
            piece = data[: self._missing]
            self._pieces.append(piece)
            self._missing -= len(piece)
            data = data[len(piece) :]
        self._buffer += data

    def whole(self, data: bytes) -> tuple[int, list[bytes]] | None:
        """The message that these bytes are, as `next_parts` gives it, in a third of the time.

        None if they are anything else or others wait before them, and then they are to be fed.
        """
        if len(data) < 4 or data[0] not in _WHOLE or self._buffer or self._pieces or self._opcode is not None:
            return None
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        if len(data) != start + size or size > self._limit or data[1] > 126:
            return None
        return data[0] & 0x0F, [data[start:]]

    def next_message(self) -> tuple[int, bytes] | None:
        """The next whole message: (TEXT, BINARY, CLOSE, PING or PONG, data); None until more bytes arrive."""
        found = self.next_parts()
        return None if found is None else (found[0], found[1][0] if len(found[1]) == 1 else b"".join(found[1]))

    def next_parts(self) -> tuple[int, list[bytes]] | None:
        """The same with the data in parts, as they came: to join what is long takes a while."""
        if not (self._buffer or self._pieces):
            return None
        while (frame := self._next_frame()) is not None:
            final, opcode, data = frame
            if opcode >= CLOSE:
                return opcode, data
            if (opcode == CONTINUATION) == (self._opcode is None):
                raise ProtocolError("the server sent a part of a message out of order")
            if final and self._opcode is None:
                return opcode, data
            if self._opcode is None:
                self._opcode = opcode
            self._parts += data
            self._size += sum(map(len, data))
            if final:
                whole = (self._opcode, self._parts)
                self._opcode, self._parts, self._size = None, [], 0
                return whole
        return None

    def _next_frame(self) -> tuple[bool, int, list[bytes]] | None:
        if self._pieces and not self._missing:
            whole = (*self._head, self._pieces)
            self._pieces = []
            return whole
        buffer = self._buffer
        if self._missing or len(buffer) < 2:
            return None
        final, opcode = bool(buffer[0] & _FINAL), buffer[0] & 0x0F
        self._check_head(buffer[0], buffer[1], opcode)
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        # Looked at before the bytes are waited for.
        if self._size + size > self._limit:
            raise ProtocolError(f"the server sent a message of more than {self._limit} bytes")
        if len(buffer) < start + size:
            if size >= LONG:
                self._head = (final, opcode)
                self._missing = size - (len(buffer) - start)
                self._pieces = [bytes(buffer[start:])]
                buffer.clear()
            return None
        with memoryview(buffer) as view:
            data = bytes(view[start : start + size])
        del buffer[: start + size]
        return final, opcode, [data]

    def _check_head(self, first: int, second: int, opcode: int) -> None:
        if first & 0x70:
            raise ProtocolError("the server sent a frame of an extension that was not agreed on")
        if second & _MASKED:
            raise ProtocolError("the server sent a masked frame")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(f"the server sent a frame of the unknown kind {opcode}")
        if opcode >= CLOSE and (not first & _FINAL or second & 0x7F > 125):
            raise ProtocolError("the server sent a control frame that is long or in parts")


# -- the opening handshake -------------------------------------------------------------------------------------------


def key_text(random: bytes) -> str:
    """A Sec-WebSocket-Key of KEY_SIZE random bytes."""
    return b2a_base64(random, newline=False).decode()


def accept_of(key: str) -> str:
    """What a server that understood the key answers (section 4.2.2)."""
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode()


def basic_authorization(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + b2a_base64(f"{user}:{password}".encode(), newline=False).decode()


def encode_upgrade(address: Address, key: str, *, by_proxy: bool = False, authorization: str = "") -> bytes:
    """The request that turns an HTTP connection to an address into a WebSocket.

    `by_proxy`: for a proxy that passes requests on; `authorization`: for that proxy.
    """
    usual = 443 if address.encrypted else 80
    place = _place(address, usual)
    path = _ascii_path(address.path) or "/"
    lines = [
        f"GET {'http://' + place if by_proxy else ''}{path} HTTP/1.1",
        f"Host: {place}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    return _head(lines, authorization)


def check_upgrade(head: bytes, key: str) -> None:
    """Raise ProtocolError unless the head of an answer, without its empty line, agrees to the upgrade."""
    status, reason, headers = _parse_head(head, "the server")
    if status in _REDIRECTS:
        # Never followed: the token would go to whatever server it names, perhaps unencrypted.
        location = headers.get("location", "another address")
        raise ProtocolError(f"the server redirects to {location[:200]!r}; redirects are not followed")
    if status != "101":
        raise ProtocolError(f"the server refuses the WebSocket: {status} {reason[:80]}")
    agreed = (
        headers.get("upgrade", "").lower() == "websocket"
        and headers.get("sec-websocket-accept") == accept_of(key)
        and "sec-websocket-extensions" not in headers
    )
    if not agreed:
        raise ProtocolError("the server answers the upgrade to a WebSocket wrongly; a proxy may be in between")


def encode_connect(address: Address, authorization: str) -> bytes:
    """The request that has a proxy connect us to an address; `authorization`: for the proxy."""
    place = _place(address, None)
    return _head([f"CONNECT {place} HTTP/1.1", f"Host: {place}"], authorization)


def check_connect(head: bytes, address: Address) -> None:
    """Raise ProtocolError unless the head of a proxy's answer says that it has connected us."""
    status, reason, _ = _parse_head(head, "the proxy")
    if not status.startswith("2"):
        raise ProtocolError(f"the proxy does not connect to {_place(address, None)}: {status} {reason[:80]}")


def _head(lines: list[str], authorization: str) -> bytes:
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _parse_head(head: bytes, who: str) -> tuple[str, str, dict[str, str]]:
    """Status, reason and headers, their names in lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ProtocolError(f"{who} does not speak HTTP: it answered {first[:80]!r}")
    status, _, reason = rest.partition(" ")
    pairs = (line.partition(":") for line in lines)
    return status, reason, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _place(address: Address, usual: int | None) -> str:
    """``HOST:PORT`` in ASCII, without the port where it is the usual one."""
    host = address.host if address.host.isascii() else address.host.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    return host if address.port == usual else f"{host}:{address.port}"


def _ascii_path(path: str) -> str:
    """The path as HTTP takes it: other characters as escapes, and without a fragment."""
    path = path.partition("#")[0]
    if path.isascii() and " " not in path:
        return path
    from urllib.parse import quote  # takes as long to import as a connection to make, and is hardly ever needed

    return quote(path, safe="/?%&=+:@!$'()*,;~[]")
