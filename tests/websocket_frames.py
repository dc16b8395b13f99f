"""Frames of WebSockets for the tests of both clients: of this package, and of the layer, which must not need it."""

from __future__ import annotations

from itertools import cycle

BAD_FRAMES = [
    (b"\xc1\x01a", "extension"),
    (b"\x81\x81aaaaa", "masked"),
    (b"\x83\x01a", "unknown kind"),
    (b"\x80\x01a", "out of order"),
    (b"\x01\x01a\x01\x01a", "out of order"),
    (b"\x09\x01a", "control frame"),
    (b"\x89\x7e\x00\x80", "control frame"),
    (b"\x82\x7f" + b"\xff" * 8, "more than"),
    (b"\x02\x05aaaaa\x80\x06aaaaaa", "more than 10 bytes"),
]
"""What a server must not send, and a word of why not; the limit of a message is 10 bytes."""


def unmask(frames: bytes | memoryview) -> bytes:
    """What a server would send that says the same."""
    frames, out = bytes(frames), bytearray()
    while frames:
        size, start = frames[1] & 0x7F, 2
        assert frames[1] & 0x80
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(frames[2:start], "big")
        out += bytes([frames[0], frames[1] & 0x7F]) + frames[2:start]
        out += _xor(frames[start + 4 : start + 4 + size], frames[start : start + 4])
        frames = frames[start + 4 + size :]
    return bytes(out)


def _xor(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ other for byte, other in zip(data, cycle(key), strict=False))
