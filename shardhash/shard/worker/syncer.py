"""The syncer: runs fsync in one thread of its own, so that lookups go on meanwhile.

An executor would do, at five times the cost of handing over, which at 10,000 groups a second is half a processor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter

from shardhash.base.figures import SECONDS, Histogram
from shardhash.errors import SyncError


class Syncer:
    """Runs `sync` in its thread, once for each call. SyncError is passed on; nothing else is expected of it."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self.seconds = Histogram(SECONDS)
        """What each call of `sync` took."""
        self._loop = asyncio.get_running_loop()
        self._asked: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)
        self._thread.start()

    def __call__(self) -> asyncio.Future[None]:
        """Sync; the future is done once it is."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._asked.put(future)
        return future

    def close(self) -> None:
        """End the thread."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (future := self._asked.get()) is not None:
            began = perf_counter()
            try:
                self._sync()
            except SyncError as error:
                self._loop.call_soon_threadsafe(_fail, future, error)
            else:
                self.seconds.add(perf_counter() - began)
                self._loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: SyncError) -> None:
    if not future.done():
        future.set_exception(error)
