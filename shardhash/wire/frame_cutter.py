"""Frames of a WebSocket (RFC 6455), cut out of what a client sends; short messages, as they come in."""

from __future__ import annotations

import numpy as np

from shardhash.wire.websocket import mask

MOST_FRAMES = 512
"""Frames that are cut out of what comes in at one time; 0.5 ms."""
MOST_SIZE = 64 * 1024
"""Bytes of what comes in that are cut into frames."""
MOST_WALKED = 4000
"""Frames of what comes in at one time that are gone through for others to read; 0.5 ms. Lines of a stream that are read
in one go, a quarter of a MiB, are fewer. Of whoever sends more and smaller ones nothing is cut any more."""
_MANY = 8
"""Frames of one size from which on they are cut all at once."""
_SHORT = 126
"""Stands for a length of two bytes, and what is above it for one of eight; what is below is the length."""
_MASKED = 0x80
_KEY = 4
_LONGEST_HEAD = 10
"""Bytes of a head without its key."""


class FrameCutter:
    """Cuts what a client sends into frames, as long as they are short and come whole.

    It is given all that comes in from the first frame on, and so knows where each begins, unless far too many come.
    """

    __slots__ = ("_head", "_left", "_lost")

    def __init__(self) -> None:
        self._head = b""
        """The begin of a frame whose size does not show yet."""
        self._left = 0
        """Bytes to come of a frame that began."""
        self._lost = False
        """Whether nobody knows where frames begin."""

    def cut(self, data: bytes) -> list[tuple[int, bytes]] | None:
        """The first byte and the payload of each frame, if these bytes are nothing but short masked frames; else None,
        and somebody else has to read them."""
        if self._lost:
            return None
        if self._head or self._left or len(data) > MOST_SIZE:
            self._pass(data)
            return None
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while at + 2 + _KEY <= end and len(frames) < MOST_FRAMES:
            size, start = data[at + 1] - _MASKED, at + 2
            if not 0 <= size <= _SHORT:
                break
            if size == _SHORT:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            payload = start + _KEY
            if payload + size > end:
                break
            if not at and size and end >= _MANY * (payload + size) and (many := _cut_alike(data, start, size)):
                return many
            frames.append((data[at], mask(data[payload : payload + size], data[start:payload])))
            at = payload + size
        if at == end:
            return frames
        self._pass(data[at:])
        return None

    def _pass(self, data: bytes) -> None:
        data = self._head + data
        at, end = self._left, len(data)
        walked = 0
        while at < end:
            walked += 1
            if walked > MOST_WALKED:
                self._lost = True
                return
            if at + 1 < end and _MASKED <= (size := data[at + 1]) < _MASKED + _SHORT:
                at += 2 + _KEY - _MASKED + size
                continue
            size = _frame_size(data[at : at + _LONGEST_HEAD])
            if not size:
                self._head, self._left = data[at:], 0
                return
            at += size
        self._head, self._left = b"", at - end


def _frame_size(begin: bytes) -> int:
    """The bytes of a frame that begins so, with its head; 0 if that does not show yet."""
    if len(begin) < 2:
        return 0
    masked, size = divmod(begin[1], _MASKED)
    head = 2
    if size >= _SHORT:
        head = 4 if size == _SHORT else _LONGEST_HEAD
        if len(begin) < head:
            return 0
        size = int.from_bytes(begin[2:head], "big")
    return head + _KEY * masked + size


def _cut_alike(data: bytes, head: int, size: int) -> list[tuple[int, bytes]]:
    """The frames, if each has a head of the same bytes, of this size, and a payload of this size; else none.

    Lines of a stream are mostly so. 20 us and 0.2 us a frame, where one by one each takes 1 us.
    """
    whole = head + _KEY + size
    count, rest = divmod(len(data), whole)
    if rest or count > MOST_FRAMES or any(data[at::whole] != data[at : at + 1] * count for at in range(head)):
        return []
    frames = np.frombuffer(data, np.uint8).reshape(count, whole)
    keys = np.tile(frames[:, head : head + _KEY], size // _KEY + 1)[:, :size]
    payloads = (frames[:, head + _KEY :] ^ keys).tobytes()
    return [(data[0], payloads[at : at + size]) for at in range(0, len(payloads), size)]
