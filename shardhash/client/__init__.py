"""Clients of a hash equivalence server, shardhash or the reference: one for asyncio, and its blocking twin.

Asynchronous::

    async with await create_async_client("ws://hash.example.com:8686") as client:
        unihashes = await client.get_unihash_batch([(method, taskhash), ...])

Blocking::

    with create_client("hash.example.com:8686") as client:
        unihash = client.get_unihash(method, taskhash)

Methods bear the names that hashserv's client in BitBake has. Failures are ConnectionError (the server cannot be
reached, even after retries; BreakerOpenError is one, for a server that was not asked because it failed a short time
ago) and InvokeError (it refused). A report in a process of its own takes the blocking client few milliseconds.
"""

from shardhash.client.asynchronous import AsyncClient, create_async_client
from shardhash.client.blocking import Client, create_client
from shardhash.client.breaker import Breaker
from shardhash.errors import BreakerOpenError, InvokeError

__all__ = [
    "AsyncClient",
    "Breaker",
    "BreakerOpenError",
    "Client",
    "InvokeError",
    "create_async_client",
    "create_client",
]
