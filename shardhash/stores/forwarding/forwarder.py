"""The forwarder: outbox, sender, and the lists of what was refused or answered otherwise, as one thing.

::

    DATA/outbox/              reports that wait (outbox/files.py; records.py has the records)
    DATA/outbox/refused/      reports that the upstream refused, until somebody has them sent again, or drops them
    DATA/outbox/conflicts/    the last 10,000 reports that the upstream gave another unihash than this server had
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from shardhash.base.tasks import BackgroundTasks
from shardhash.base.text import counted
from shardhash.base.timestamps import to_iso
from shardhash.errors import StorageError
from shardhash.outbox.journal import Item, Journal
from shardhash.stores.chained.pools import Pools
from shardhash.stores.forwarding.kept import PAGE, KeptList
from shardhash.stores.forwarding.outbox import Outbox
from shardhash.stores.forwarding.records import decode_reports, describe_remark
from shardhash.stores.forwarding.sender import Sender
from shardhash.stores.interface import ForwardingHealth
from shardhash.wire.rows import Report

log = logging.getLogger(__name__)

MOST_CONFLICTS = 10_000
LAST_SECONDS = 3.0
"""For how long the end of a server waits for what would be lost by it."""


class Forwarder:
    """Sends reports on. Use from one event loop.

    `journals` are those above, in this order; `sync` and `sync_interval` as for reports in the log.
    """

    def __init__(
        self,
        pools: Pools,
        journals: Sequence[Journal],
        limit: int,
        *,
        sync: str = "always",
        sync_interval: float = 1.0,
    ) -> None:
        waiting, refused, conflicts = journals
        self._refused = KeptList(refused)
        self._conflicts = KeptList(conflicts, MOST_CONFLICTS)
        self._outbox = Outbox(waiting, limit, sync=sync, sync_interval=sync_interval, others=lambda: refused.size)
        self._sender = Sender(self._outbox, pools, self._refused, self._conflicts)
        self._pools = pools
        self._sending = BackgroundTasks()

    def start(self) -> None:
        """Begin to send."""
        self._outbox.start()
        self._sending.start(self._sender.run(), "sending reports to the upstream")

    async def close(self) -> None:
        """Write what came, and leave the rest for the next start; what is in memory only gets a little time."""
        if not self._outbox.journal.durable:
            await self._send_the_rest()
        await self._sending.close()
        await self._sender.close()
        await self._outbox.close()
        await self._refused.close()
        await self._conflicts.close()

    async def _send_the_rest(self) -> None:
        until = time.monotonic() + LAST_SECONDS
        while self._outbox.journal.count and not self._pools.down and time.monotonic() < until:  # noqa: ASYNC110  # once
            await asyncio.sleep(0.02)
        if count := self._outbox.journal.count:
            log.warning("%s that waited for the upstream: lost (--memory)", counted(count, "report"))

    async def add(self, reports: Sequence[Report]) -> None:
        """Have reports sent on, with the unihashes that were given out; returns once they are durable."""
        await self._outbox.add(reports)

    # ------------------------------------------------------------------------------------------ for people

    def health(self) -> ForwardingHealth:
        """How it stands."""
        journal = self._outbox.journal
        return ForwardingHealth(
            waiting=journal.count,
            size=self._outbox.size,
            limit=self._outbox.limit,
            oldest=self._outbox.oldest / 1e6,
            refused=self._refused.journal.count,
            results={
                **{name: self._sender.results[name] for name in ("accepted", "refused", "unreadable")},
                "left-out": self._outbox.left_out,
            },
            conflicts=self._sender.conflicts,
            conflicts_kept=self._conflicts.journal.count,
            trouble=self._sender.trouble,
        )

    async def refused(self, limit: int) -> list[dict[str, Any]]:
        """The newest reports that the upstream refused: columns, ``time`` and ``why``."""
        return await self._newest(self._refused, limit, "why")

    async def conflicts(self, limit: int) -> list[dict[str, Any]]:
        """The newest that it gave another unihash: columns, ``time`` and ``upstream``, its unihash."""
        return await self._newest(self._conflicts, limit, "upstream")

    async def _newest(self, kept: KeptList, limit: int, remark: str) -> list[dict[str, Any]]:
        try:
            return await kept.newest(limit, lambda item: _shown(item, remark))
        except OSError as error:
            raise StorageError(f"the list cannot be read: {error}") from error

    async def retry_refused(self) -> int:
        """Have the refused reports sent again, behind what waits; how many. StorageError when the disk refuses."""
        count = 0
        for _ in range(self._refused.journal.count // PAGE + 1):  # those that are refused meanwhile are for later
            items = await self._oldest_refused()
            if not items:
                break
            reports = [report for report in await decode_reports(items) if report is not None]
            if not await self._outbox.add(reports, whatever_the_limit=True):
                raise StorageError("the outbox cannot be written; the refused reports stay where they are")
            await self._refused.take(items[-1])
            count += len(reports)
        self._sender.retry()
        return count

    async def drop_refused(self) -> int:
        """Forget the refused reports; how many."""
        count = 0
        while items := await self._oldest_refused():
            await self._refused.take(items[-1])
            count += len(items)
        return count

    async def _oldest_refused(self) -> list[Item]:
        try:
            return await self._refused.oldest()
        except OSError as error:
            raise StorageError(f"the refused reports cannot be read: {error}") from error


def _shown(item: Item, remark: str) -> dict[str, Any]:
    described = dict(describe_remark(item))
    return {"time": to_iso(described.pop("time"), "seconds"), remark: described.pop("remark"), **described}
