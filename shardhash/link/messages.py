"""Messages of the link between coordinator and worker: one WebSocket on a unix socket.

Every message is binary and begins with a byte for its kind::

    'L'  u32 number (little-endian) and a batch frame (wire/batch.py): a lookup or existence request, its answer
    'J'  JSON: [[number, operation, argument, ...], ...]   requests (operations.py), in the order in which they begin
                [[number, result], ...]                    answers, in any order
                [[number, null, kind, message], ...]       refusals of requests of both kinds; see `refusal_of`

Numbers are the coordinator's, one sequence a link, never 0 and never that of a request that waits; what has number 0 is
not answered. A request may be sent again after a link dropped: each operation is idempotent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import orjson

from shardhash.errors import InternalError, ServerFaultError, StorageError

LOOKUP = b"L"
JSON = b"J"
NO_ANSWER = 0
"""Number of a request whose answer nobody waits for."""
MOST_NUMBER = 0xFFFFFFFF
EXIT_DAMAGED = 3
"""Exit status of a worker whose files cannot be used as they are: starting it again would not help."""
MAX_MESSAGE = 1 << 30
"""Limit of a message on the link, bytes; a report carries its siginfo."""
FULL_MESSAGE = 16 << 20
"""Size in bytes from which on a message is split: many clients may ask for long texts in one tick."""

Refusal: TypeAlias = tuple[str, str]
"""Why an operation failed: the kind "storage" (the disk refuses a write, or holds damage) or "internal" (a bug, which
the log describes), and the text."""

_NUMBER = struct.Struct("<cI")


def lookup_head(number: int) -> bytes:
    """What stands before the batch frame of a lookup message."""
    return _NUMBER.pack(LOOKUP, number)


def decode_lookup(message: bytes) -> tuple[int, memoryview]:
    """(number, batch frame) of a lookup message; the frame is a part of it."""
    return _NUMBER.unpack_from(message)[1], memoryview(message)[_NUMBER.size :]


def encode_json(items: list[Any]) -> bytes:
    """A JSON message."""
    return JSON + orjson.dumps(items)


def encode_messages(
    items: list[Any], refuse: Callable[[Any], None], full: int = FULL_MESSAGE, most: int = MAX_MESSAGE
) -> Iterator[bytes]:
    """Items in order, in one message if it is shorter than `full`, bytes, and else in several.

    An item that takes more than `most` bytes alone is left out, and given to `refuse`: the other end would drop the
    link, and with it every other request.
    """
    message = encode_json(items)
    if len(items) == 1 and len(message) > most:
        refuse(items[0])
    elif len(message) < full or len(items) == 1:
        yield message
    else:
        middle = len(items) // 2
        yield from encode_messages(items[:middle], refuse, full, most)
        yield from encode_messages(items[middle:], refuse, full, most)


def decode_json(message: bytes) -> list[Any]:
    """The items of a JSON message."""
    items: list[Any] = orjson.loads(memoryview(message)[1:])
    return items


def refusal_of(error: BaseException) -> Refusal:
    """How a worker tells of an operation that failed."""
    if isinstance(error, StorageError):
        return "storage", str(error)
    return "internal", str(error) or repr(error)


def error_of(refusal: Refusal, shard: int) -> ServerFaultError:
    """The error that the refusal of a shard stands for."""
    kind, text = refusal
    return StorageError(text) if kind == "storage" else InternalError(f"shard {shard}: {text}")
