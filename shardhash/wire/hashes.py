"""Hashes, keys and slots: how a taskhash, outhash or unihash is held and where it lives.

A hash of 64 lowercase hex digits is held as its *digest*, 32 bytes (a ``bytes`` of 65 bytes of memory where
the text takes 113); any other hash stays text. The two cannot collide, because their types differ. Each key
has a *slot*, 0 to 255, and a worker owns a range of slots.
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain
from typing import TypeAlias
from zlib import crc32

from shardhash.errors import InvokeError

DIGEST_SIZE = 32
"""Bytes of a digest."""
SLOTS = 256
"""Number of slots; shard i of n owns the slots s with s * n // SLOTS == i."""

Buffer: TypeAlias = bytes | memoryview
"""Bytes, or a part of some that is not copied."""

Key: TypeAlias = bytes | str
"""A hash as it is held: the digest of 64 lowercase hex digits, or any other text."""


FAR = 50_000
"""Entries of a dict from which on it hardly lies in the processor's caches."""

_ONE = struct.Struct("32s")
_MANY = struct.Struct("32s" * 64)


def to_key(text: str) -> Key:
    """The key of a hash given as text; 0.3 us, half of what a regular expression takes."""
    if len(text) == 2 * DIGEST_SIZE:
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            return text
        if digest.hex() == text:  # else it has capitals or white space
            return digest
    return text


def to_text(key: Key) -> str:
    """The text of a hash; the inverse of `to_key`."""
    return key if isinstance(key, str) else key.hex()


def to_digest(unihash: str) -> bytes:
    """The digest of a unihash, which is always 64 lowercase hex digits.

    Raises InvokeError "Invalid unihash", the reference's words (PROTOCOL, Terms).
    """
    digest = to_key(unihash)
    if isinstance(digest, str):
        raise InvokeError("Invalid unihash")
    return digest


def is_digest_text(text: str) -> bool:
    """Whether the text is 64 lowercase hex digits."""
    return isinstance(to_key(text), bytes)


def join_digests(hashes: Sequence[str]) -> bytes | None:
    """The digests, end to end, of hashes given as text; None unless each is 64 lowercase hex digits.

    About 70 ns a hash: no Python bytecode runs per hash.
    """
    if not hashes:
        return b""
    if set(map(len, hashes)) != {2 * DIGEST_SIZE}:
        return None
    joined = "".join(hashes)
    if joined.lower() != joined:
        return None
    try:
        return unhexlify(joined)
    except ValueError:
        return None


def split_digests(digests: Buffer) -> Iterator[bytes]:
    """Digests that lie end to end, one by one; about 22 ns each."""
    whole = memoryview(digests)
    cut = whole.nbytes - whole.nbytes % _MANY.size
    return chain(
        chain.from_iterable(_MANY.iter_unpack(whole[:cut])), chain.from_iterable(_ONE.iter_unpack(whole[cut:]))
    )


def hash_ahead(keys: Iterable[bytes], table: Sized) -> Iterable[bytes]:
    """The keys, which are all about to be looked for in `table`: in one of millions that takes 0.6 of the time then.

    A bytes object keeps its hash. With the work of hashing out of the way, a processor is so soon at the next key that
    it waits for the memory of several of them at once. In a small table there is no waiting, and nothing is done.
    """
    if len(table) > FAR:
        keys = list(keys)
        all(map(hash, keys))  # a hash of 0 ends it early, once in 2**64 keys
    return keys


def slot_of(key: Key) -> int:
    """The slot of a key: first byte of a digest, else the low byte of the text's CRC-32."""
    return key[0] if isinstance(key, bytes) else crc32(key.encode("utf-8", "surrogatepass")) & 0xFF


def slot_of_text(text: str) -> int:
    """The slot of a hash given as text; the same as of its key, in half the time."""
    if len(text) == 2 * DIGEST_SIZE:
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            pass
        else:
            if digest.hex() == text:
                return digest[0]
    return slot_of(text)


class ShardMap:
    """Which shard owns which key, when there are `shards` of them (at most 256): a range of slots each."""

    __slots__ = ("owners", "shards")

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.owners = bytes(slot * shards // SLOTS for slot in range(SLOTS))
        """The shard of each slot."""

    def of(self, key: Key) -> int:
        """The shard that owns a key."""
        return self.owners[slot_of(key)]
