"""Packing: rows and index items as byte strings, since memory is what limits a shard.

::

    row          created u64 | details u32 | packed outhash | siginfo u64, if the highest bit of details is set
    index item   created u64 | packed taskhash
    packed key   u8 0 and the digest, or 1 and the text

Integers are big-endian, so that bytes sort by time. ``details`` numbers what tasks share (details.py). A row of digests
without siginfo takes 80 bytes as a Python object; eight bytes more would make it 96.
"""

from __future__ import annotations

import struct

from shardhash.wire.hashes import Key

_ROW = struct.Struct(">QI")
_SIGINFO = struct.Struct(">Q")
_HAS_SIGINFO = 1 << 31
_CREATED = struct.Struct(">Q")


def pack_row(created: int, details: int, outhash: Key, siginfo: int) -> bytes:
    """A row; `siginfo` is 0 for none."""
    if siginfo:
        return _ROW.pack(created, details | _HAS_SIGINFO) + pack_key(outhash) + _SIGINFO.pack(siginfo)
    return _ROW.pack(created, details) + pack_key(outhash)


def unpack_row(item: bytes) -> tuple[int, int, Key, int]:
    """(created, details, outhash, siginfo) of a row."""
    created, details = _ROW.unpack_from(item)
    return created, details & ~_HAS_SIGINFO, unpack_key(row_name(item)), siginfo_of(item)


def details_of(item: bytes) -> int:
    """The number of the details of a row."""
    number: int = _ROW.unpack_from(item)[1]
    return number & ~_HAS_SIGINFO


def renumber_row(item: bytes, numbers: list[int]) -> bytes:
    """A row with another number for its details: that at its own in `numbers`."""
    created, details = _ROW.unpack_from(item)
    number = numbers[details & ~_HAS_SIGINFO] | (details & _HAS_SIGINFO)
    return _ROW.pack(created, number) + item[_ROW.size :]


def row_name(item: bytes) -> bytes:
    """The packed outhash of a row."""
    return item[_ROW.size : -_SIGINFO.size] if _has_siginfo(item) else item[_ROW.size :]


def siginfo_of(item: bytes) -> int:
    """The siginfo reference of a row, 0 for none."""
    reference: int = _SIGINFO.unpack_from(item, len(item) - _SIGINFO.size)[0] if _has_siginfo(item) else 0
    return reference


def _has_siginfo(item: bytes) -> bool:
    return item[_CREATED.size] >= 0x80


def pack_item(created: int, taskhash: Key) -> bytes:
    """An index item."""
    return _CREATED.pack(created) + pack_key(taskhash)


def unpack_item(item: bytes) -> tuple[int, Key]:
    """(created, taskhash) of an index item."""
    return _CREATED.unpack_from(item)[0], unpack_key(item[_CREATED.size :])


def item_name(item: bytes) -> bytes:
    """The packed taskhash of an index item."""
    return item[_CREATED.size :]


def pack_key(key: Key) -> bytes:
    """A key as bytes."""
    return b"\0" + key if isinstance(key, bytes) else b"\1" + key.encode("utf-8", "surrogatepass")


def unpack_key(packed: bytes) -> Key:
    """The inverse of `pack_key`."""
    return packed[1:] if packed[0] == 0 else packed[1:].decode("utf-8", "surrogatepass")
