"""Kept lists: what the upstream refused, and what it answered otherwise. People look at them; nothing else does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from shardhash.errors import StorageError
from shardhash.outbox.journal import Item, Journal, Place

log = logging.getLogger(__name__)

_T = TypeVar("_T")

PAGE = 1000
PAGE_BYTES = 4 << 20


class KeptList:
    """Records that stay until somebody takes them; the oldest go where there are more than `most`."""

    def __init__(self, journal: Journal, most: int | None = None) -> None:
        self.journal = journal
        self._most = most
        self._lock = asyncio.Lock()

    async def add(self, payloads: Sequence[bytes]) -> bool:
        """Keep these, durably; False when the disk refuses."""
        if not payloads:
            return True
        async with self._lock:
            try:
                await asyncio.to_thread(self.journal.append, payloads, time.time_ns() // 1000, sync=True)
            except StorageError as error:
                log.error("what the upstream refused or answered otherwise cannot be kept: %s", error)
                return False
            await self._drop_oldest()
        return True

    async def _drop_oldest(self) -> None:
        if self._most is None or self.journal.count <= self._most + PAGE:
            return
        while (more := self.journal.count - self._most) > 0:
            items = await asyncio.to_thread(self.journal.read, None, min(more, PAGE), PAGE_BYTES)
            if not items:
                return
            self.journal.take(items[-1])
        await self._save()

    async def oldest(self) -> list[Item]:
        """Some records, the oldest first. OSError when they cannot be read."""
        async with self._lock:
            return await asyncio.to_thread(self.journal.read, None, PAGE, PAGE_BYTES)

    async def newest(self, limit: int, show: Callable[[Item], _T]) -> list[_T]:
        """What `show`, called in another thread, makes of the newest records, newest first. OSError as above."""
        async with self._lock:
            return await asyncio.to_thread(self._newest, limit, show)

    def _newest(self, limit: int, show: Callable[[Item], _T]) -> list[_T]:
        last: deque[_T] = deque(maxlen=limit)
        after: Place | None = None
        while limit and (items := self.journal.read(after, PAGE, PAGE_BYTES)):
            last.extend(map(show, items[-limit:]))
            after = items[-1].after
        return list(reversed(last))

    async def take(self, item: Item) -> None:
        """This record and all before it go."""
        async with self._lock:
            self.journal.take(item)
            await self._save()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self.journal.save)
        except OSError as error:
            log.info("a list of forwarding cannot be shortened on the disk: %s", error)

    async def close(self) -> None:
        """Close its files."""
        await asyncio.to_thread(self.journal.close)
