"""Checks: whether a server is ready, and which parts of it are not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardhash.coordinator.room import Room
from shardhash.stores.interface import ForwardingHealth, Health


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data directory, bytes; `why` says what is wrong when it cannot be asked."""

    free: int = 0
    total: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. The server is not ready unless all that are `needed` are well."""

    name: str
    well: bool
    text: str
    needed: bool = True

    def __str__(self) -> str:
        sign = "+" if self.well else "-" if self.needed else "!"
        return f"[{sign}] {self.name}: {self.text}"


async def read_disk(data: Path | None) -> Disk | None:
    """How full the disk is; None when everything is in memory. A disk that hangs holds a thread, not the server."""
    if data is None:
        return None
    try:
        usage = await asyncio.wait_for(asyncio.to_thread(shutil.disk_usage, data), 5.0)
    except (OSError, TimeoutError) as error:
        return Disk(why=str(error) or "it did not answer within 5 s")
    return Disk(usage.free, usage.total)


def checks(health: Health, disk: Disk | None, room: Room) -> Iterator[Check]:
    """Every check of a server, in the order in which people read them."""
    for shard in health.shards:
        restarts = f"; its worker was started again {shard.restarts}x" if shard.restarts else ""
        yield Check(f"shard {shard.shard}", not shard.why, (shard.why or "answers") + restarts)
    if health.database is not None:
        yield Check("database", not health.database, health.database or "answers")
    if health.lease is not None:
        text = "followed" if health.lease else "not heard: nothing is answered from memory until they are"
        yield Check("other servers", health.lease, text, needed=False)
    if disk is not None:
        yield _check_disk(disk, room)
    if health.upstream is not None:
        down = health.upstream.down
        text = "down: it is not asked, and what is known here answers" if down else "answers"
        places = f" ({health.upstream.places})" if health.upstream.places else ""
        yield Check("upstream", not down, text + places, needed=False)
        if health.upstream.forwarding is not None:
            yield _check_forwarding(health.upstream.forwarding)


def _check_forwarding(forwarding: ForwardingHealth) -> Check:
    texts = [f"{forwarding.waiting} reports wait"]
    if forwarding.trouble:
        texts.append(f"the upstream takes none: {forwarding.trouble}")
    if forwarding.refused:
        texts.append(f"{forwarding.refused} refused ones are kept apart (shardhash client forwarding)")
    if left_out := forwarding.results["left-out"]:
        texts.append(f"{left_out} were left out since the start")
    return Check("forwarding", len(texts) == 1, "; ".join(texts), needed=False)


def _check_disk(disk: Disk, room: Room) -> Check:
    if disk.why:
        return Check("disk", False, f"cannot be asked: {disk.why}")
    free = f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free"
    if room.low:
        return Check("disk", False, f"{free}: reports are not stored (limit disk_refuse); make room")
    if room.scarce:
        return Check("disk", False, f"{free}: soon reports are not stored (limit disk_warn)", needed=False)
    return Check("disk", True, free)
