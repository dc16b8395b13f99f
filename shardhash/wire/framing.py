"""Line framing: how lines and JSON messages travel over the stream transports (PROTOCOL, "Addresses and transports").

A line is UTF-8 ended by ``\\n`` (``\\r\\n`` is taken too). A JSON message of 32 KiB or more is *chunked*: the line
``{"chunk-stream": null}``, then its text cut into pieces, a line each, then an empty line. WebSocket needs none of
this: a message is a message.

The sizes of the protocol are in characters, ours in bytes of UTF-8: a piece of at most 32767 bytes has at most
32767 characters, and fits the 64 KiB that asyncio's StreamReader of a stock client takes for a line, as a piece
counted in characters need not. For the same reason a line that *arrives* may be four times as long.
"""

from __future__ import annotations

from collections.abc import Iterator

from shardhash.errors import LimitError, ProtocolError

CHUNK_THRESHOLD = 32 * 1024
"""Bytes from which on a JSON message is chunked."""
PIECE_SIZE = 32767
"""Most bytes, and so most characters, of a piece."""
CHUNK_STREAM = "chunk-stream"
"""The key of the message that announces pieces."""
DEFAULT_LINE_LIMIT = 4 * CHUNK_THRESHOLD
"""Holds any piece of 32767 characters: a character takes at most four bytes."""

_AS_COMMAS = bytes.maketrans(b"[{", b",,")
_NO_OUTLINE = bytes(sorted({*range(256)} - {*b'",[{'}))
_ANNOUNCEMENT = b'{"chunk-stream": null}'
ANNOUNCEMENT_LINE = _ANNOUNCEMENT + b"\n"


def shown(line: bytes) -> str:
    """The beginning of a peer's line for a message: text in quotes, with escapes."""
    return repr(line[:80].decode("utf-8", "replace"))


class LineBuffer:
    """Cuts bytes, however they arrive, after whole lines of at most `limit` bytes (newlines not counted)."""

    __slots__ = ("_limit", "_overrun", "_tail")

    def __init__(self, limit: int = DEFAULT_LINE_LIMIT) -> None:
        self._limit = limit
        self._tail = bytearray()
        self._overrun = False

    @property
    def size(self) -> int:
        """Bytes of the line that is not complete."""
        return len(self._tail)

    @property
    def overrun(self) -> bool:
        """Whether a line over the limit has begun to arrive; from then on `feed` only raises."""
        return self._overrun

    def is_line(self, data: bytes) -> bool:
        """Whether `data` is one whole line, ended by a newline alone, so that there is nothing to `feed`."""
        return (
            data.endswith(b"\n")
            and data.find(b"\n") == len(data) - 1 <= self._limit
            and not self._tail
            and not self._overrun
            and not data.endswith(b"\r\n")
        )

    def feed(self, data: bytes) -> bytes:
        """The lines that `data` completes, as one text in which each is ended by a newline; else b"".

        Lines before one over the limit are still returned, so that bytes give the same lines however they
        arrive; look at `overrun` then. Raises LimitError when the limit is passed with no line to return.
        """
        if self._overrun:
            raise self._error()
        end = data.rfind(b"\n") + 1
        text = b""
        if end:
            text = bytes(self._tail) + data[:end] if self._tail else data[:end]
            self._tail.clear()
        self._tail += data[end:]
        whole = self._measure(text)
        if whole < len(text) or len(self._tail) > self._limit:
            text = text[:whole]
            self._overrun = True
            self._tail.clear()
            if not text:
                raise self._error()
        return text.replace(b"\r\n", b"\n") if b"\r" in text else text

    def _measure(self, text: bytes) -> int:
        """The size of the part of a text of whole lines that is before the first line over the limit."""
        start = 0
        while len(text) - start > self._limit + 1:
            end = text.rfind(b"\n", start, start + self._limit + 1)
            if end < 0:
                return start
            start = end + 1
        return len(text)

    def _error(self) -> LimitError:
        return LimitError(f"a line is longer than {self._limit} bytes", "line")


class LineSplitter:
    """The same as `LineBuffer`, but gives the lines one by one, without their newlines."""

    __slots__ = ("_buffer",)

    def __init__(self, limit: int = DEFAULT_LINE_LIMIT) -> None:
        self._buffer = LineBuffer(limit)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes; about 40 ns a line. Raises as `LineBuffer.feed` does."""
        lines = self._buffer.feed(data).split(b"\n")
        lines.pop()
        return lines


class ChunkAssembler:
    """Collects the pieces of one chunked message of at most `limit` bytes."""

    __slots__ = ("_limit", "_message")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._message = bytearray()  # not a list: pieces of a byte or two would cost thirty times their size

    @property
    def size(self) -> int:
        """Bytes collected so far."""
        return len(self._message)

    def add(self, pieces: bytes) -> None:
        """Take some pieces, joined. Raises LimitError as `feed` does."""
        if len(self._message) + len(pieces) > self._limit:
            self._message.clear()
            raise LimitError(f"a message is longer than {self._limit} bytes", "message")
        self._message += pieces

    def begin(self, size: int) -> bytes:
        """The first bytes."""
        return bytes(self._message[:size])

    def finish(self) -> bytes:
        """The whole message."""
        return bytes(self._message)

    def feed(self, line: bytes) -> bytes | None:
        """Take one line after the announcement: the whole message at the empty line, until then None.

        Raises LimitError as soon as the pieces exceed the limit; the memory is given up then.
        """
        if not line:
            return self.finish()
        self.add(line)
        return None


def without_escapes(text: bytes) -> bytes:
    """JSON of the same length in which each quote begins or ends a text."""
    # Two steps, since a backslash that is escaped itself escapes nothing.
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text


class ValueCount:
    """Counts the values of a JSON text, but for the first. It comes in parts, none of which cuts an escape in two."""

    __slots__ = ("_most", "_quotes", "_values")

    def __init__(self, most: int) -> None:
        self._most = most
        self._quotes = self._values = 0

    def add(self, plain: bytes, *, inside: bool = False) -> None:
        """A part `without_escapes`; `inside`: it begins in a text. LimitError for more than `most`; 2 ms a MB.

        A value has two texts at most, its name and itself, so that no more of them need be cut out, 40 ns each.
        """
        outline = plain.translate(_AS_COMMAS, _NO_OUTLINE)
        self._quotes += outline.count(b'"')
        if self._quotes <= 4 * self._most + 2:
            self._values += sum(map(len, outline.split(b'"')[inside::2]))
            if self._values <= self._most:
                return
        raise LimitError(f"a request holds more than {self._most} JSON values", "values")


def check_values(text: bytes, most: int) -> None:
    """Raise LimitError for a JSON text of more values than `most`, but for the first."""
    if count_signs(text) > most:
        ValueCount(most).add(without_escapes(text))


def count_signs(text: bytes) -> int:
    """Signs of values in JSON, one at least for each value but the first; texts may hold some, too. 1 ms a MB."""
    return sum(map(text.count, (b",", b"[", b"{")))


def find_lines_end(text: bytes, start: int, end_line: bytes) -> tuple[int, int]:
    """Where the end line or an empty one begins behind the line at `start`, or the text ends; how many lines before."""
    count = text.count(b"\n", start)
    size = text.index(b"\n", start) + 1 - start
    # Lines of one size, as builds send them, cannot hold a shorter one: nothing to search for, which takes longer.
    same_size = size > len(end_line) and count * size == len(text) - start
    if same_size and text[start + size - 1 :: size].count(b"\n") == count:
        return len(text), count
    # Behind the newline of the line before it; -1, that is 0, if there is none.
    end = text.find(b"\n" + end_line, start) + 1 or len(text)
    end = text.find(b"\n\n", start, end) + 1 or end
    return end, count if end == len(text) else text.count(b"\n", start, end)


def encode_text(text: str) -> bytes:
    """The UTF-8 of a text message. Raises ProtocolError on half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ProtocolError("a text message holds half a surrogate pair") from None


def encode_json(message: bytes) -> bytes:
    """A JSON message (UTF-8, no newline) as a line, or chunked if it is long."""
    if len(message) < CHUNK_THRESHOLD:
        return message + b"\n"
    return b"\n".join((_ANNOUNCEMENT, *_pieces(message), b"", b""))


def encode_part(part: bytes) -> bytes:
    """A part of a chunked message, which cuts no character in two: behind `ANNOUNCEMENT_LINE`, before an empty line."""
    return b"\n".join((*_pieces(part), b""))


def _pieces(message: bytes) -> Iterator[bytes]:
    """Consecutive pieces of at most PIECE_SIZE bytes, none of which cuts a character in two."""
    start = 0
    while start < len(message):
        end = start + PIECE_SIZE
        while end < len(message) and message[end] & 0xC0 == 0x80:
            end -= 1
        yield message[start:end]
        start = end
