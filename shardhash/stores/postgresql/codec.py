"""What columns hold: hashes and texts as ``bytea``, rows as clients see them.

A digest is its 32 bytes. Any other text of a key is tagged so that it cannot be taken for a digest: a zero byte before
its UTF-8, and one before that if the two would make 32 bytes. Plain texts are their UTF-8. Lone surrogates, which JSON
can carry, are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardhash.base.timestamps import to_iso
from shardhash.wire.hashes import DIGEST_SIZE, Key, to_key, to_text
from shardhash.wire.long_text import PART, LongText, Text, cut_parts
from shardhash.wire.rows import COLUMNS, JOINED_COLUMNS, Columns

_SHORT, _TAGGED = b"\0", b"\1\0"


def pack_text(text: str) -> bytes:
    """A text as a column holds it."""
    return text.encode("utf-8", "surrogatepass")


def unpack_text(value: bytes) -> str:
    """The inverse of `pack_text`."""
    return value.decode("utf-8", "surrogatepass")


def unpack_siginfo(value: bytes | None) -> Text | None:
    """A text that may be long."""
    if value is None or len(value) <= PART:
        return None if value is None else unpack_text(value)
    return LongText(cut_parts(bytes(value), more=False)[0])


def pack_optional(text: Text | None) -> bytes | None:
    """A text, or null."""
    if isinstance(text, LongText):
        return b"".join(text.parts)
    return None if text is None else text.encode("utf-8", "surrogatepass")


def pack_key(key: Key) -> bytes:
    """A key as a column holds it."""
    if isinstance(key, bytes):
        return key
    packed = _SHORT + pack_text(key)
    return packed if len(packed) != DIGEST_SIZE else _TAGGED + packed[1:]


def unpack_key(value: bytes) -> Key:
    """The inverse of `pack_key`."""
    if len(value) == DIGEST_SIZE:
        return value
    return unpack_text(value.removeprefix(_SHORT if value.startswith(_SHORT) else _TAGGED))


def beginnings(text: str) -> tuple[bytes, bytes]:
    """What the columns of keys begin with that are no digests and begin with a text."""
    return _SHORT + pack_text(text), _TAGGED + pack_text(text)


def pack_hash(text: str) -> bytes:
    """A hash given as text, as a column holds it; 0.5 us."""
    return pack_key(to_key(text))


def unpack_hash(value: bytes) -> str:
    """The inverse of `pack_hash`."""
    return to_text(unpack_key(value))


def unpack_row(method: str, values: Sequence[Any]) -> Columns:
    """A row as clients see it.

    `values`: taskhash, outhash, created, the five details, siginfo; then unihash and mark if it is joined.
    """
    taskhash, outhash, created, *rest = values
    texts = [*(None if value is None else unpack_text(value) for value in rest[:5]), unpack_siginfo(rest[5])]
    columns = [method, unpack_hash(taskhash), unpack_hash(outhash), to_iso(created), *texts]
    if len(rest) == 6:
        return dict(zip(COLUMNS, columns, strict=True))
    unihash, mark = rest[6:]
    return dict(zip(JOINED_COLUMNS, [*columns, unihash.hex(), unpack_text(mark)], strict=True))
