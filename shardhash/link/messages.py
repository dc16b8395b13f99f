"""Messages of the link between coordinator and worker: one WebSocket on a unix socket.

Every message is binary and begins with a byte for its kind::

    'L'  u32 number (little-endian) and a batch frame (wire/batch.py): a lookup or existence request, its answer
    'J'  JSON: [[number, operation, argument, ...], ...]   requests (operations.py), in the order in which they begin
                [[number, result], ...]                    answers, in any order
                [[number, null, kind, message], ...]       refusals of requests of both kinds; see `refusal_of`
    'T'  u32 place (little-endian) and UTF-8: a part of a long text of the next JSON message, where ``{"\\0": place}``
         stands for it

Numbers are the coordinator's, one sequence a link, never 0 and never that of a request that waits; what has number 0 is
not answered. A request may be sent again after a link dropped: each operation is idempotent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import orjson

from shardhash.errors import InternalError, ServerFaultError, StorageError
from shardhash.wire.long_text import LongText, dumps

LOOKUP = b"L"
JSON = b"J"
TEXT = b"T"
NO_ANSWER = 0
"""Number of a request whose answer nobody waits for."""
MOST_NUMBER = 0xFFFFFFFF
EXIT_DAMAGED = 3
"""Exit status of a worker whose files cannot be used as they are: starting it again would not help."""
MAX_MESSAGE = 1 << 30
"""Limit of a message on the link, bytes; a report carries its siginfo."""
FULL_MESSAGE = 16 << 20
"""Size in bytes from which on a message of lookups is split."""
FULL_JSON = 256 << 10
"""The same of a JSON message, which takes each side 1 ms."""
FULL_ANSWERS = 64 << 10
"""The same of JSON answers, many of which are of the smallest values, and lists that the collector looks at: 2 ms."""

Refusal: TypeAlias = tuple[str, str]
"""Why an operation failed: the kind "storage" (the disk refuses a write, or holds damage) or "internal" (a bug, which
the log describes), and the text."""

_NUMBER = struct.Struct("<cI")
_PLACE = "\0"
_ENDS = 3
"""Bytes of a JSON message beside its items."""


def lookup_head(number: int) -> bytes:
    """What stands before the batch frame of a lookup message."""
    return _NUMBER.pack(LOOKUP, number)


def decode_lookup(message: bytes) -> tuple[int, memoryview]:
    """(number, batch frame) of a lookup message; the frame is a part of it."""
    return _NUMBER.unpack_from(message)[1], memoryview(message)[_NUMBER.size :]


def encode_messages(
    items: list[Any], refuse: Callable[[Any], None], full: int = FULL_JSON, most: int = MAX_MESSAGE
) -> Iterator[bytes]:
    """Items in order, in JSON messages of at most `full` bytes, but for an item that takes more alone.

    An item that takes more than `most` bytes is left out, and given to `refuse`: the other end would drop the link, and
    with it every other request. The parts of long texts go before the message that has them, one a message.
    """
    together: list[bytes] = []
    size = texts = 0
    for item in items:
        long: list[LongText] = []
        encoded = dumps(item, partial(_refer, long, texts))
        if len(encoded) > most:
            refuse(item)
            continue
        if together and size + len(encoded) + _ENDS >= full:
            yield _join(together)
            together, size, texts = [], 0, 0
            if long:
                long.clear()
                encoded = dumps(item, partial(_refer, long, texts))
        for text in long:
            head = _NUMBER.pack(TEXT, texts)
            texts += 1
            for part in text.parts:
                yield head + part
        together.append(encoded)
        size += len(encoded) + 1
    if together:
        yield _join(together)


def _refer(long: list[LongText], before: int, text: LongText) -> dict[str, int]:
    long.append(text)
    return {_PLACE: before + len(long) - 1}


def _join(items: list[bytes]) -> bytes:
    return b"".join((JSON, b"[", b",".join(items), b"]"))


class Texts:
    """The long texts that came in before their JSON message, of one link."""

    def __init__(self) -> None:
        self._parts: dict[int, list[bytes]] = {}

    def add(self, message: bytes) -> None:
        """Take a part."""
        place: int = _NUMBER.unpack_from(message)[1]
        self._parts.setdefault(place, []).append(message[_NUMBER.size :])

    def put_back(self, items: list[Any]) -> None:
        """Put them where the items refer to them."""
        if self._parts:
            texts = {place: LongText(parts) for place, parts in self._parts.items()}
            self._parts = {}
            _put_back(items, texts)


def decode_json(message: bytes, texts: Texts | None = None) -> list[Any]:
    """The items of a JSON message, and of the texts that came before it."""
    items: list[Any] = orjson.loads(memoryview(message)[1:])
    if texts is not None:
        texts.put_back(items)
    return items


def _put_back(value: Any, texts: dict[int, LongText]) -> None:
    """Put long texts where a list or an object refers to them; 0.1 us for each value of a message that has any."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if type(item) is dict and _PLACE in item:
            value[key] = texts[item[_PLACE]]
        elif type(item) is list or type(item) is dict:
            _put_back(item, texts)


def refusal_of(error: BaseException) -> Refusal:
    """How a worker tells of an operation that failed."""
    if isinstance(error, StorageError):
        return "storage", str(error)
    return "internal", str(error) or repr(error)


def error_of(refusal: Refusal, shard: int) -> ServerFaultError:
    """The error that the refusal of a shard stands for."""
    kind, text = refusal
    return StorageError(text) if kind == "storage" else InternalError(f"shard {shard}: {text}")
