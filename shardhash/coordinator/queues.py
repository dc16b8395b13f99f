"""Fair queues: work that is done one at a time, where nobody may fill the queue for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shardhash.errors import InvokeError


class FairQueue:
    """One piece of work at a time, and of each key one at a time in the queue for that.

    So a key waits for one piece of each other key at the most, however many pieces those have. At most `most` of a key
    may wait; more are refused.
    """

    def __init__(self, most: int, refusal: str) -> None:
        self._most = most
        self._refusal = refusal
        self._one = asyncio.Lock()
        self._of_key: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for the turn, and hold it. Raises InvokeError when too much waits under this key."""
        waiting = self._waiting.get(key, 0)
        if waiting >= self._most:
            raise InvokeError(self._refusal)
        self._waiting[key] = waiting + 1
        lock = self._of_key.setdefault(key, asyncio.Lock())
        try:
            async with lock, self._one:
                yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key], self._of_key[key]
