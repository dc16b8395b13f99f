"""Shards in this process: both ends of each link as in a server, over a socket that is a pair of queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType
from aiohttp.web import WebSocketResponse

from shardhash.link import messages
from shardhash.link.worker_link import WorkerLink
from shardhash.shard.storage.memory import MemoryShard
from shardhash.shard.worker.process import Link
from shardhash.shard.worker.service import Service
from shardhash.shard.worker.writer import Writer

LIMIT = 30.0


class End:
    """One end of a connection."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.other = self

    async def send_bytes(self, message: bytes) -> None:
        """Send to the other end."""
        self.other._came.put_nowait(bytes(message))

    async def close(self) -> None:
        """End both directions."""
        for end in (self, self.other):
            end._came.put_nowait(None)

    def __aiter__(self) -> End:
        return self

    async def __anext__(self) -> Any:
        message = await self._came.get()
        if message is None:
            raise StopAsyncIteration
        return WSMessage(WSMsgType.BINARY, message, None)


class ShardHere:
    """One shard: its link, its service, and how many messages and operations of each kind it was asked."""

    def __init__(self, number: int, shard: MemoryShard | None = None, limit: float = LIMIT) -> None:
        self.link = WorkerLink(number, limit)
        self.shard = shard if shard is not None else MemoryShard()
        self.asked: Counter[str] = Counter()
        self._near, self._far = End(), End()
        self._near.other, self._far.other = self._far, self._near

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ShardHere]:
        """Serve the link."""
        writer = Writer(self.shard, wait_for_sync=True)
        self.service = Service(self.shard, writer)
        send = self._near.send_bytes

        async def count_and_send(message: bytes) -> None:
            if message[:1] == messages.LOOKUP:
                self.asked["lookup"] += 1
            else:
                self.asked.update(name for _, name, *_ in messages.decode_json(message))
            await send(message)

        self._near.send_bytes = count_and_send  # type: ignore[method-assign]
        worker_end = Link(cast(WebSocketResponse, self._far), self.service).serve()
        serving = asyncio.gather(writer.run(), worker_end, self.link.serve(cast(ClientWebSocketResponse, self._near)))
        await self.link.connected.wait()
        try:
            yield self
        finally:
            await self._near.close()
            writer.stop()
            await serving
        self.shard.table.check()


@asynccontextmanager
async def running(count: int) -> AsyncIterator[list[ShardHere]]:
    """So many shards."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ShardHere(number).run()) for number in range(count)]
