"""Native batch frames: thousands of hashes of one method in one binary message. Pure.

Version 1 of the extension that a server offers by the header ``shardhash-batch: 1``. Little-endian::

    request   u8 version = 1 | u8 op | u16 bytes of method | u32 count | method, UTF-8 | count digests of 32 bytes
    answer    u8 version = 1 | u8 op | u16 flags           | u32 count | [count status bytes] | [count digests]

op 1 (get) answers digests, zero and status 0 where unknown; flag 1 (all known) leaves the status bytes out.
op 2 (exists) answers status bytes only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from shardhash_bitbake.errors import ProtocolError

OFFER = ("shardhash-batch", "1")
GET = 1
EXISTS = 2
_ALL_KNOWN = 1
_HEAD = struct.Struct("<BBHI")
_SIZE = 32
_MATCH = re.compile(r"[0-9a-f]{64}").fullmatch


def is_hash(text: object) -> bool:
    """Whether this is a text of 64 lowercase hex digits, which is what a frame can carry."""
    return isinstance(text, str) and _MATCH(text) is not None


def encode_request(op: int, method: str, hashes: Sequence[str]) -> bytes:
    """The frame that asks for hashes, each one of 64 lowercase hex digits."""
    name = method.encode()
    return _HEAD.pack(1, op, len(name), len(hashes)) + name + bytes.fromhex("".join(hashes))


def decode_unihashes(frame: bytes, count: int) -> list[str | None]:
    """The unihashes, or None where unknown, in the answer to a get for `count` hashes. Raises ProtocolError."""
    flags = _check_head(frame, GET, count)
    statuses = 0 if flags & _ALL_KNOWN else count
    start = _HEAD.size + statuses
    if len(frame) != start + count * _SIZE:
        raise ProtocolError(f"a batch answer has {len(frame)} bytes, its head says {start + count * _SIZE}")
    text = frame[start:].hex()
    found: list[str | None] = [text[at : at + 2 * _SIZE] for at in range(0, len(text), 2 * _SIZE)]
    if statuses:
        known = frame[_HEAD.size : start]
        return [unihash if status else None for unihash, status in zip(found, known)]
    return found


def decode_exists(frame: bytes, count: int) -> list[bool]:
    """Whether each of `count` unihashes exists. Raises ProtocolError."""
    _check_head(frame, EXISTS, count)
    if len(frame) != _HEAD.size + count:
        raise ProtocolError(f"a batch answer has {len(frame)} bytes, its head says {_HEAD.size + count}")
    return [bool(status) for status in frame[_HEAD.size :]]


def _check_head(frame: bytes, op: int, count: int) -> int:
    """The flags of an answer."""
    if len(frame) < _HEAD.size:
        raise ProtocolError(f"a batch answer of {len(frame)} bytes is shorter than its head of {_HEAD.size}")
    head: tuple[int, int, int, int] = _HEAD.unpack_from(frame)
    version, answered, flags, number = head
    if (version, answered, number) != (1, op, count):
        raise ProtocolError(
            f"a batch answer has version {version}, op {answered}, {number} hashes; 1, {op}, {count} are due"
        )
    return flags
