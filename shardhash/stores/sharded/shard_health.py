"""How a shard stands, as its link knows and its worker says."""

from __future__ import annotations

import asyncio

from shardhash.errors import ServerFaultError
from shardhash.link import operations as op
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import ShardHealth

HEALTH_LIMIT = 3.0
"""Seconds within which a shard has to say how it stands."""


async def health_of(link: WorkerLink) -> ShardHealth:
    """The health of a shard, within HEALTH_LIMIT."""
    if not link.connected.is_set():
        return ShardHealth(link.shard, link.restarts, None, "its worker is away; another one recovers its part")
    try:
        async with asyncio.timeout(HEALTH_LIMIT):
            figures = await link.request(op.Figures())
    except TimeoutError:
        why = f"its worker did not answer within {HEALTH_LIMIT:g} s"
    except ServerFaultError as error:
        why = str(error)
    else:
        return ShardHealth(link.shard, link.restarts, figures)
    return ShardHealth(link.shard, link.restarts, None, why)
