"""WebSocket frames (RFC 6455): their heads; and what a server sends by the thousand, short texts, each a message."""

from __future__ import annotations

from collections.abc import Iterable

TEXT_MESSAGE, BINARY_MESSAGE = 0x81, 0x82
"""First byte of a frame that is a whole message."""
_OPCODE, _LAST = 0x0F, 0x80
_SHORT = 126
"""Bytes from which on the length has a field of its own."""
_HEADS = [bytes((TEXT_MESSAGE, size)) for size in range(_SHORT)]


def text_frames(texts: Iterable[bytes]) -> bytes:
    """A text message for each of these, which are UTF-8; about 0.1 us each."""
    return b"".join(
        [(_HEADS[len(text)] if len(text) < _SHORT else frame_head(TEXT_MESSAGE, len(text))) + text for text in texts]
    )


def text_fragment(part: bytes, *, first: bool, last: bool) -> bytes:
    """A part of a text message that is sent as several frames, among which others may go that control."""
    return frame_head((TEXT_MESSAGE & _OPCODE if first else 0) | (_LAST if last else 0), len(part)) + part


def binary_message(payload: bytes) -> bytes:
    """A binary message."""
    return frame_head(BINARY_MESSAGE, len(payload)) + payload


def frame_head(begin: int, size: int, masked: int = 0) -> bytes:
    """The head of a frame of `size` bytes, without a key; `begin` is its first byte, `masked` the bit for a key."""
    if size < _SHORT:
        return bytes((begin, masked | size))
    if size < 1 << 16:
        return bytes((begin, masked | 126)) + size.to_bytes(2, "big")
    return bytes((begin, masked | 127)) + size.to_bytes(8, "big")
