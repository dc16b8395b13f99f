"""Blocks: many hashes that one client asks for at one time, looked up a part at a time, so that others go between."""

from __future__ import annotations

import asyncio

from shardhash.stores.interface import Store
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer
from shardhash.wire.streams import LookupBlock, LookupGroup

BULK = 16_384
"""Hashes of a batch from which on few go at one time, and so many of each: a worker that looks up 100,000 answers
nobody for 8 ms."""
METHODS_AT_ONCE = 64
"""Methods of one block that are looked up at one time; 1 ms. Real traffic has one or two."""


async def lookup_in_parts(store: Store, method: str, digests: Buffer) -> Found:
    """The unihash of each taskhash (n * 32 bytes)."""
    if len(digests) <= BULK * DIGEST_SIZE or store.remote:  # each part would travel to the upstream and back
        return await store.lookup(method, digests)
    return Found.join([await store.lookup(method, part) for part in _parts(digests)])


async def exists_in_parts(store: Store, digests: Buffer) -> bytes:
    """A byte for each unihash (n * 32 bytes): 1 when some mapping has it."""
    if len(digests) <= BULK * DIGEST_SIZE:
        return await store.exists(digests)
    return b"".join([await store.exists(part) for part in _parts(digests)])


def _parts(digests: Buffer) -> list[Buffer]:
    size = BULK * DIGEST_SIZE
    return [digests[start : start + size] for start in range(0, len(digests), size)]


async def lookup_block(store: Store, block: LookupBlock) -> Found:
    """The answers to a block of lookups, in its order."""
    found: list[Found] = []
    for start in range(0, len(block.groups), METHODS_AT_ONCE):
        some = block.groups[start : start + METHODS_AT_ONCE]
        found += await asyncio.gather(*(_lookup_group(store, group) for group in some))
    return block.join(found)


async def _lookup_group(store: Store, group: LookupGroup) -> Found:
    if isinstance(group.hashes, bytes):
        return await store.lookup(group.method, group.hashes)
    return Found.of(await store.lookup_keys(group.method, group.hashes))
