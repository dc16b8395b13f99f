"""The outbox: reports that are stored here and wait to be sent on. It holds as much as it may, and fails open.

Reports that arrive while others are written go together: one write, one fsync. A report is in the outbox, as durably
as `sync` says, before it is acknowledged to whoever made it. Where that is not possible, because the outbox is full or
the disk refuses, it is acknowledged all the same, counted and complained about: no build fails by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from shardhash.base.tasks import BackgroundTasks
from shardhash.base.wakeup import Wakeup
from shardhash.errors import StorageError
from shardhash.outbox.journal import OVERHEAD, Item, Journal
from shardhash.stores.forwarding.records import encode_long_report, encode_report
from shardhash.wire.long_text import LongText
from shardhash.wire.rows import Report

log = logging.getLogger(__name__)

AGAIN = 60.0
"""Seconds between one complaint and the next."""

_Added: TypeAlias = tuple[list[bytes], "asyncio.Future[bool]"]


class Outbox:
    """Reports that wait. `limit` is in bytes; `others` tells the bytes that count besides. Use from one event loop."""

    def __init__(
        self,
        journal: Journal,
        limit: int,
        *,
        sync: str = "always",
        sync_interval: float = 1.0,
        others: Callable[[], int] = int,
    ) -> None:
        self.journal = journal
        self.limit = limit
        self.left_out = 0
        """Reports that did not get in, and are not sent on."""
        self.filled: Callable[[], None] = lambda: None
        """Called when there is more."""
        self._sync = sync
        self._sync_interval = sync_interval
        self._others = others
        self._adding: list[_Added] = []
        self._adding_size = 0
        self._wakeup = Wakeup()
        self._sync_due = self._unsynced = self._stopping = False
        self._stopped = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._complained = 0.0
        self._complaints = 0
        self._oldest = 0

    @property
    def size(self) -> int:
        """Bytes of all that waits."""
        return self.journal.size + self._adding_size + self._others()

    @property
    def oldest(self) -> int:
        """When the report came that waits longest, microseconds since 1970 UTC, as far as it was looked at; 0: none."""
        return self._oldest if self.journal.count else 0

    def start(self) -> None:
        """Begin to write."""
        self._tasks.start(self._write(), "the outbox")
        if self._sync == "interval":
            self._tasks.start(self._sync_often(), "syncing the outbox")

    async def close(self) -> None:
        """Write what was added, and end."""
        self._stopping = True
        self._wakeup.wake()
        await self._stopped.wait()
        await self._tasks.close()
        await asyncio.to_thread(self.journal.close)

    # ---------------------------------------------------------------------------------------------- adding

    async def add(self, reports: Sequence[Report], *, whatever_the_limit: bool = False) -> bool:
        """Have these wait; returns once they are as durable as they are to be. False: they were left out."""
        try:
            payloads = [
                await encode_long_report(report) if type(report.outhash_siginfo) is LongText else encode_report(report)
                for report in reports
            ]
        except TypeError as error:
            return self._leave_out(len(reports), f"one is no text of Unicode ({error})")
        size = sum(map(len, payloads)) + len(payloads) * OVERHEAD
        if not whatever_the_limit and self.size + size > self.limit:
            return self._leave_out(len(reports), f"the outbox is full ({self.limit >> 20} MiB, --outbox-size)")
        added: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._adding.append((payloads, added))
        self._adding_size += size
        self._wakeup.wake()
        return await added

    def _leave_out(self, count: int, why: str) -> bool:
        self.left_out += count
        self._complaints += count
        now = time.monotonic()
        if not self._complained or now - self._complained >= AGAIN:
            log.error(
                "%d reports are stored here and will not be sent on to the upstream: %s. Once there is room again, what"
                " was left out can be brought there by `shardhash export` and `shardhash import --address`",
                self._complaints,
                why,
            )
            self._complained, self._complaints = now, 0
        return False

    async def _write(self) -> None:
        try:
            await self._write_all()
        finally:
            self._stopped.set()

    async def _write_all(self) -> None:
        while not (self._stopping and not self._adding):
            await self._wakeup.wait()
            while self._adding:
                await asyncio.sleep(0)  # what is under way now goes along
                group, self._adding = self._adding, []
                await self._write_group(group)
            if self._sync_due:
                self._sync_due = self._unsynced = False
                await self._sync_now()
        if self._unsynced and self._sync != "off":
            await self._sync_now()

    async def _write_group(self, group: list[_Added]) -> None:
        payloads = [payload for some, _ in group for payload in some]
        now = time.time_ns() // 1000
        there = True
        try:
            await asyncio.to_thread(self.journal.append, payloads, now, sync=self._sync == "always")
        except StorageError as error:
            there = self._leave_out(len(payloads), f"the outbox cannot be written ({error})")
        except Exception:  # those who wait are to be told
            log.exception("internal error in the outbox; this is a bug")
            there = self._leave_out(len(payloads), "of a bug")
        self._unsynced = True
        if not self._oldest or self.journal.count <= len(payloads):
            self._oldest = now
        self._adding_size -= sum(map(len, payloads)) + len(payloads) * OVERHEAD
        for _, added in group:
            if not added.done():
                added.set_result(there)
        if there:
            self.filled()

    async def _sync_now(self) -> None:
        try:
            await asyncio.to_thread(self.journal.sync)
        except StorageError as error:
            log.error(
                "the outbox cannot be synced, and a loss of power may lose reports of the last moments: %s", error
            )

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(self._sync_interval)
            if self._unsynced:
                self._sync_due = True
                self._wakeup.wake()

    # ---------------------------------------------------------------------------------------------- taking

    async def read(self, records: int, size: int) -> list[Item]:
        """The reports that wait longest."""
        if not self.journal.count:
            return []
        items = await asyncio.to_thread(self.journal.read, None, records, size)
        self._oldest = items[0].time if items else 0
        return items

    async def save(self) -> None:
        """Keep how far it was sent. A disk that refuses costs only that some is sent again after the next start."""
        try:
            await asyncio.to_thread(self.journal.save)
        except OSError as error:
            log.info("how far the outbox was sent cannot be written: %s", error)
