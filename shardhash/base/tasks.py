"""Background tasks of an object that lives as long as the server: they end with it, and none fails unnoticed.

Where tasks belong to one call, use `asyncio.TaskGroup`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

log = logging.getLogger(__name__)

Sleep: TypeAlias = Callable[[float], Coroutine[Any, Any, None]]
"""Waits for this many seconds, like `asyncio.sleep`."""


class BackgroundTasks:
    """Tasks that run until they end or are cancelled by `close`. Use from one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run a coroutine. An exception that leaves it is a bug: it is logged with a traceback under `name`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self, patience: float = 0.0) -> None:
        """Give all tasks so many seconds to end, cancel those that have not, and wait for their end."""
        if patience and self._tasks:
            await asyncio.wait(list(self._tasks), timeout=patience)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal error in %s; this is a bug", task.get_name(), exc_info=error)
