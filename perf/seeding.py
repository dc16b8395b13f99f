"""Filling a server with what the builders will ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from hashlib import sha256

from perf.workload import Workload, WrongAnswerError
from shardhash.client import create_async_client

CONNECTIONS = 40
"""Reports under way at once: what arrives together is written together."""
BATCH = 1000
"""Keys in one MSET."""


async def report(address: str, workload: Workload) -> int:
    """Report every mapping, as tasks that ran would, each with an outhash of its own; how many.

    Raises WrongAnswerError.
    """
    left = iter(workload.mappings().items())
    await asyncio.gather(*(_report(address, left) for _ in range(CONNECTIONS)))
    return len(workload.mappings())


async def _report(address: str, left: Iterator[tuple[tuple[str, bytes], bytes]]) -> None:
    async with await create_async_client(address) as client:
        for (method, taskhash), unihash in left:
            outhash = sha256(b"outhash " + taskhash).hexdigest()
            answer = await client.report_unihash(taskhash.hex(), method, outhash, unihash.hex())
            if answer["unihash"] != unihash.hex():
                raise WrongAnswerError(f"{address}: the report of {taskhash.hex()} was answered by {answer}")


async def fill_redis(address: str, workload: Workload) -> int:
    """Set a key for each mapping: taskhash to unihash, as digests."""
    from redis.asyncio import Redis

    host, _, port = address.rpartition(":")
    items = [(taskhash, unihash) for (_, taskhash), unihash in workload.mappings().items()]
    async with Redis(host=host, port=int(port)) as client:
        for start in range(0, len(items), BATCH):
            await client.mset(dict(items[start : start + BATCH]))
    return len(items)
