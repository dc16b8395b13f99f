"""Fixed-width batch frames: thousands of hashes of one method in one message.

This is the *native batch* extension, version 1. A client that sends ``needs-headers: true`` is told
``shardhash-batch: 1`` among the server's headers; a server that does not say so gets streams instead. Over a
WebSocket, in command mode, a binary message is then a request, answered by one binary message, in order.
Integers are little-endian::

    request   u8 version = 1 | u8 op | u16 bytes of method | u32 count | method, UTF-8 | count digests of 32 bytes
    answer    u8 version = 1 | u8 op | u16 flags           | u32 count | [count status bytes] | [count digests]

op 1 (get): which unihash has each taskhash? The answer's digests stand in the order asked; an unknown one is
32 zero bytes and status 0, a known one has status 1. Flag 1 (all known) leaves the status bytes out.
op 2 (exists): is each unihash the unihash of some mapping? The request's method is empty; the answer has
status bytes (1 yes, 0 no) and no digests.

Hashes that are not 64 lowercase hex digits, and the line transports, use the JSON form:
``{"get-batch": {"method": M, "taskhashes": [T, ...]}}`` is answered ``{"unihashes": [U or null, ...]}`` and
``{"exists-batch": {"unihashes": [U, ...]}}`` is answered ``{"exists": [true or false, ...]}``.
Where the headers say ``shardhash-report-batch: 1`` as well, ``{"report-batch": {"reports": [R, ...]}}`` is answered
``{"unihashes": [U, ...]}`` once all are stored. Each R has the fields of a ``report``. Those that share an outhash are
carried out in this order.
Refusals are text: ``{"invoke-error": ...}``, then the server closes.

The same frames, behind a request number, travel between coordinator and worker (shard/protocol.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from shardhash.errors import InvalidRequestError, LimitError, ProtocolError
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, split_digests

if TYPE_CHECKING:  # clients, who import this, need not
    from shardhash.wire.limits import Limits

VERSION = 1
OFFER = ("shardhash-batch", str(VERSION))
"""The header by which a server offers native batches."""

GUESSES_OFFER = ("shardhash-guess", "1")
"""Offered likewise: the command guess (PROTOCOL, "Messages")."""
REPORTS_OFFER = ("shardhash-report-batch", "1")
"""The header by which a server offers report-batch."""

GET = 1
EXISTS = 2
ALL_KNOWN = 1
"""Flag of a get answer: every status would be 1."""

_HEAD = struct.Struct("<BBHI")
HEAD_SIZE = _HEAD.size


class Batch(NamedTuple):
    """A request: ``digests`` is count * 32 bytes, in the order asked; ``op`` is GET or EXISTS."""

    op: int
    method: str
    digests: Buffer


class Found(NamedTuple):
    """Answers to a get: ``digests`` is count * 32 bytes, zero where unknown.

    ``known`` has a byte 0 or 1 for each; None means all are known.
    """

    digests: Buffer
    known: bytes | None

    def unihashes(self) -> list[bytes | None]:
        """One digest or None for each hash asked; about 40 ns each."""
        digests = split_digests(self.digests)
        if self.known is None:
            return list(digests)
        return [item if known else None for item, known in zip(digests, self.known, strict=True)]

    def part(self, start: int, end: int) -> Found:
        """The answers from one place to another."""
        known = None if self.known is None else self.known[start:end]
        digests = self.digests[start * DIGEST_SIZE : end * DIGEST_SIZE]
        return Found(digests, known if known is not None and 0 in known else None)

    @classmethod
    def join(cls, parts: Sequence[Found]) -> Found:
        """The answers of some parts, end to end."""
        digests = b"".join([part.digests for part in parts])
        if all(part.known is None for part in parts):
            return cls(digests, None)
        known = [part.known or b"\1" * (len(part.digests) // DIGEST_SIZE) for part in parts]
        return cls(digests, b"".join(known))

    @classmethod
    def of(cls, unihashes: list[bytes | None]) -> Found:
        """The inverse of `unihashes`."""
        try:
            return cls(b"".join(unihashes), None)  # type: ignore[arg-type]  # a None raises
        except TypeError:  # looking for a None first would take as long as joining
            zero = bytes(DIGEST_SIZE)
            return cls(b"".join([item or zero for item in unihashes]), bytes([item is not None for item in unihashes]))


def encode_request(batch: Batch, before: bytes = b"") -> bytes:
    """The frame of a request, behind some other bytes; so below: each copy of a large frame counts."""
    method = batch.method.encode()
    count, rest = divmod(len(batch.digests), DIGEST_SIZE)
    if rest or len(method) > 0xFFFF:
        raise ValueError("digests are 32 bytes each, and a method has at most 65535 bytes")
    return b"".join((before, _HEAD.pack(VERSION, batch.op, len(method), count), method, batch.digests))


def op_of(frame: Buffer) -> int:
    """What a well-formed request asks."""
    return frame[1]


def decode_request(frame: Buffer) -> Batch:
    """The request in a frame, whose digests are a part of it. Raises ProtocolError that says what is wrong with it."""
    if len(frame) < HEAD_SIZE:
        raise ProtocolError(f"batch frame of {len(frame)} bytes is shorter than its head of {HEAD_SIZE}")
    version, op, method_size, count = _HEAD.unpack_from(frame)
    if version != VERSION:
        raise ProtocolError(f"batch version {version} is not known; this side speaks {VERSION}")
    if op not in (GET, EXISTS):
        raise ProtocolError(f"batch op {op} is not known")
    start = HEAD_SIZE + method_size
    if len(frame) != start + count * DIGEST_SIZE:
        raise ProtocolError(f"batch frame has {len(frame)} bytes, its head says {start + count * DIGEST_SIZE}")
    try:
        method = str(frame[HEAD_SIZE:start], "utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("batch method is not UTF-8") from None
    return Batch(op, method, memoryview(frame)[start:])


def decode_limited_request(frame: Buffer, limits: Limits) -> Batch:
    """The same. Raises LimitError and InvalidRequestError, too, for what is longer than a client may send."""
    if len(frame) > limits.message:
        raise LimitError(f"a message is longer than {limits.message} bytes", "message")
    asked = decode_request(frame)
    if (count := len(asked.digests) // DIGEST_SIZE) > limits.batch:
        raise InvalidRequestError(f"a batch has at most {limits.batch} hashes here, not {count}")
    return asked


def encode_found(found: Found, before: bytes = b"") -> bytes:
    """The frame that answers a get."""
    flags = ALL_KNOWN if found.known is None else 0
    head = _HEAD.pack(VERSION, GET, flags, len(found.digests) // DIGEST_SIZE)
    return b"".join((before, head, found.known or b"", found.digests))


def encode_exists(status: bytes, before: bytes = b"") -> bytes:
    """The frame that answers an exists; `status` has a byte 0 or 1 for each."""
    return b"".join((before, _HEAD.pack(VERSION, EXISTS, 0, len(status)), status))


def decode_answer(frame: Buffer) -> Found | bytes:
    """The answer in a frame: Found for a get, status bytes for an exists. Raises ProtocolError.

    The digests are a part of the frame if that is a memoryview, and bytes of their own if it is bytes.
    """
    if len(frame) < HEAD_SIZE:
        raise ProtocolError(f"batch answer of {len(frame)} bytes is shorter than its head of {HEAD_SIZE}")
    version, op, flags, count = _HEAD.unpack_from(frame)
    if version != VERSION or op not in (GET, EXISTS):
        raise ProtocolError(f"batch answer of version {version}, op {op} is not known")
    statuses = 0 if op == GET and flags & ALL_KNOWN else count
    digests = count * DIGEST_SIZE if op == GET else 0
    if len(frame) != HEAD_SIZE + statuses + digests:
        raise ProtocolError(f"batch answer has {len(frame)} bytes, its head says {HEAD_SIZE + statuses + digests}")
    status = bytes(frame[HEAD_SIZE : HEAD_SIZE + statuses])
    if op == EXISTS:
        return status
    return Found(frame[HEAD_SIZE + statuses :], status if statuses else None)
