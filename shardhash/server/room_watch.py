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


def save_quotas(data: Path, quotas: Quotas) -> None:
    """Write what was stored today. A disk that refuses is told of elsewhere."""
    if not quotas.changed:
        return
    text = json.dumps(quotas.dump()).encode()
    try:
        replace_file(OsFileSystem(), data / QUOTAS, text)
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
            save_quotas(data, quotas)  # once in ten seconds, some KiB
        await asyncio.sleep(LOOK_PAUSE)
