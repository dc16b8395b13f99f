"""Writes of a start: if the disk refuses them, the server serves lookups anyway and retries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import ServerFaultError, StorageError

log = logging.getLogger(__name__)

RETRY_PAUSE = 1.0
"""Seconds before the disk is asked again to take what a start writes."""


async def do_or_retry(what: str, work: Callable[[], Awaitable[None]], running: AsyncExitStack) -> None:
    """Do the work now; if the disk refuses, retry in the background until `running` is closed."""
    try:
        await work()
    except StorageError as error:
        log.error("%s cannot be stored yet; trying again: %s", what, error)
        attempts = BackgroundTasks()
        running.push_async_callback(attempts.close)
        attempts.start(_retry(what, work), what)


async def _retry(what: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(RETRY_PAUSE)
        with contextlib.suppress(ServerFaultError):
            await work()
            log.info("%s is stored now", what)
            return
