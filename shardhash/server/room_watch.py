"""The watch over the data directory: how full its disk is, and the file with what everybody stored today."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from pathlib import Path

from shardhash.coordinator.quotas import Quotas
from shardhash.coordinator.room import Room
from shardhash.shard.storage.filesystem import OsFileSystem, replace_file
from shardhash.shard.storage.layout import QUOTAS

log = logging.getLogger(__name__)

LOOK_PAUSE = 1.0
"""Seconds between looks at the disk."""
WRITE_EVERY = 10
"""Looks from one writing of the quotas to the next."""


def load_quotas(data: Path, quotas: Quotas) -> None:
    """Go on with what was stored today. A file that is not whole counts for nothing."""
    try:
        quotas.load(json.loads((data / QUOTAS).read_bytes()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used, and quotas of today begin anew: %s", data / QUOTAS, error)


async def save_quotas(data: Path, quotas: Quotas) -> None:
    """Write what was stored today, if anything was. A disk that refuses is told of elsewhere.

    The last time, at the end of a server, may meet the one before, and waits for it: only then it is sure what changed.
    """
    async with quotas.saving:
        if quotas.changed:
            await asyncio.to_thread(_write, data, await _dump(quotas))  # an fsync may take seconds


async def _dump(quotas: Quotas) -> list[bytes]:
    steps = quotas.dump()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            pieces: list[bytes] = end.value
            return pieces
        await asyncio.sleep(0)


def _write(data: Path, dumped: list[bytes]) -> None:
    try:
        replace_file(OsFileSystem(), data / QUOTAS, b"".join(dumped))
    except OSError as error:
        log.info("%s cannot be written: %s", data / QUOTAS, error)


async def watch_room(data: Path, room: Room, quotas: Quotas | None = None) -> None:
    """Look at the disk each second, until cancelled. One that hangs holds a thread, not the server.

    `quotas`, if given, are written at times. What followers count, each its share, begins anew with each start.
    """
    looks = 0
    while True:
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, data)
        except OSError as error:
            log.info("the disk of %s cannot be asked how full it is: %s", data, error)
        else:
            room.update(usage.free, usage.total)
        looks += 1
        if quotas is not None and looks % WRITE_EVERY == 0:
            await save_quotas(data, quotas)
        await asyncio.sleep(LOOK_PAUSE)
