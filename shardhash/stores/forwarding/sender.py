"""The sender: reads the outbox from its oldest report on, and tells the upstream, batch by batch.

- To the first upstream that is up, and to no other.
- A report leaves the outbox when it was accepted there, or is in the list of refused ones, durably. How far that is
  gone is written once a second at most: what is sent twice does no harm, for the upstream answers the mapping in force.
- While the upstream takes nothing, all waits; pauses grow, with some chance in them, and one warning says why.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from shardhash.base.wakeup import Wakeup
from shardhash.client import AsyncClient
from shardhash.errors import InvokeError, ProtocolError
from shardhash.outbox.journal import Item
from shardhash.stores.chained.pool import Pool
from shardhash.stores.chained.pools import Pools
from shardhash.stores.forwarding.attempt import NOT_STORED, Attempt
from shardhash.stores.forwarding.kept import KeptList
from shardhash.stores.forwarding.outbox import Outbox
from shardhash.stores.forwarding.records import CONFLICT, REFUSED, decode_reports, encode_long_remark, encode_remark
from shardhash.wire.rows import Report

log = logging.getLogger(__name__)

BATCH = 1000
"""Reports that are told at one time."""
BATCH_BYTES = 512 << 10
"""Most bytes of them, unless it is one."""
FIRST_PAUSE = 0.5
LAST_PAUSE = 60.0
"""Seconds after an attempt that failed; each pause is twice the one before."""
PATIENCE = 30.0
"""Seconds that the upstream may be silent, at least: nobody waits for it here."""
CERTAIN = 3
"""Attempts at a report after which it counts as refused, if the connection breaks by it, or it is not found there."""
PROVEN_FOR = 60.0
"""Seconds for which an upstream that stored something is not asked again whether it does."""
SAVE_EVERY = 1.0
"""Seconds between two writings of how far the outbox was sent."""


class Sender:
    """Sends until it is cancelled. Use from one event loop."""

    def __init__(self, outbox: Outbox, pools: Pools, refused: KeptList, conflicts: KeptList) -> None:
        self.results: Counter[str] = Counter()
        """Reports by what became of them: accepted, refused, unreadable."""
        self.conflicts = 0
        """Accepted ones that the upstream gave another unihash."""
        self.trouble = ""
        """Why the upstream takes no reports, "" while it does."""
        self._outbox = outbox
        self._pools = pools
        self._refused = refused
        self._conflicts = conflicts
        self._clients: dict[Pool, AsyncClient] = {}
        self._more = Wakeup()
        self._again = Wakeup()
        self._saved = 0.0
        self._unsure: dict[Report, int] = {}
        """How often in a row it was unsure whether a report is to blame."""
        self._proven: dict[Pool, float] = {}
        """Until when an upstream counts as one that stores; monotonic time."""
        self._control = _control_of(outbox.journal.note)
        outbox.filled = self._more.wake
        pools.back = self._more.wake

    def retry(self) -> None:
        """Make no further pause."""
        self._again.wake()

    async def run(self) -> None:
        """Send whatever there is."""
        pause = FIRST_PAUSE
        while True:
            try:
                went_well = await self._step()
            except Exception:  # nothing else would send what waits
                log.exception("internal error in sending reports to the upstream; this is a bug, it is tried again")
                went_well = False
            if went_well:
                pause = FIRST_PAUSE
            else:
                await self._again.wait_for(pause * random.uniform(0.75, 1.25))
                pause = min(LAST_PAUSE, pause * 2)

    async def close(self) -> None:
        """Leave the upstream, after `run` was cancelled."""
        await self._save(at_once=True)
        for client in self._clients.values():
            await client.disconnect()

    async def _step(self) -> bool:
        """Send some, or wait until there is something to send; False if that failed."""
        pool = self._pools.first()
        try:
            items = [] if pool is None else await self._outbox.read(BATCH, BATCH_BYTES)
        except OSError as error:
            return self._cannot_read(error)
        if pool is not None and items:
            return await self._send(pool, items)
        await self._save(at_once=False)
        await self._wait()
        return True

    async def _wait(self) -> None:
        """Until there may be something to do; what was sent is written a second later, if nothing comes."""
        if self._saved:
            await self._more.wait_for(SAVE_EVERY)
            await self._save(at_once=False)
        else:
            await self._more.wait()

    # ---------------------------------------------------------------------------------------------- sending

    async def _send(self, pool: Pool, items: Sequence[Item]) -> bool:
        """Tell these to an upstream; whether it took any."""
        if not await pool.prove():
            return False  # it is left alone
        reports = await self._decode(items)
        if not reports:
            return await self._advance(items[-1])
        client = self._client(pool)
        attempt = Attempt(client, [report for _, report in reports])
        try:
            await client.connect()
            await attempt.run()
            refusal = await self._refusal(pool, client, attempt)
        except InvokeError as error:
            return self._taken_aback(pool, str(error))
        except (OSError, ProtocolError) as error:
            pool.fail(error)
            self._proven.pop(pool, None)
            return False
        blamed = refusal is None and self._is_certain(attempt)
        done = attempt.tried if blamed else min(attempt.suspects, default=0)
        taken = await self._settle(attempt, reports[:done])
        if done and taken:
            await self._advance(items[-1] if done == len(reports) else reports[done - 1][0])
        if refusal is not None:
            return self._taken_aback(pool, refusal)
        self._went_well(pool)
        return taken and blamed

    async def _decode(self, items: Sequence[Item]) -> list[tuple[Item, Report]]:
        reports = []
        for item, report in zip(items, await decode_reports(items), strict=True):
            if report is None:
                self.results["unreadable"] += 1
                log.error("record %d of the outbox is of a later version, and is left out", item.number)
            else:
                reports.append((item, report))
        return reports

    async def _refusal(self, pool: Pool, client: AsyncClient, attempt: Attempt) -> str | None:
        """Why the upstream stores nothing at present; None if it does, so that suspects are to blame.

        It is asked to map a task that it knows to the unihash that it has. That changes nothing, but only one who may
        store is answered; a report of a known task is answered to anybody.
        """
        if attempt.accepted:
            self._remember(attempt)
        if not attempt.suspects and time.monotonic() < self._proven.get(pool, 0.0):
            return None
        proof = Attempt(client, [] if self._control is None else [self._control])
        await proof.run()
        if proof.accepted:
            self._proven[pool] = time.monotonic() + PROVEN_FOR
            return None
        self._proven.pop(pool, None)
        suspicions = [*attempt.suspects.values(), *proof.suspects.values()]
        return suspicions[0].why if attempt.suspects or not suspicions[0].unsure else NOT_STORED

    def _is_certain(self, attempt: Attempt) -> bool:
        """Whether no suspect can have had bad luck: it was told often enough, where once proves little."""
        # Without what may be megabytes.
        unsure = [
            attempt.report(place)._replace(outhash_siginfo=None)
            for place, suspicion in attempt.suspects.items()
            if suspicion.unsure
        ]
        self._unsure = {report: self._unsure.get(report, 0) + 1 for report in unsure}
        return min(self._unsure.values(), default=CERTAIN) >= CERTAIN

    def _remember(self, attempt: Attempt) -> None:
        place = max(attempt.accepted)
        report = attempt.report(place)
        self._control = Report(report.method, report.taskhash, "", attempt.accepted[place])
        self._outbox.journal.note = list(self._control)

    async def _settle(self, attempt: Attempt, reports: Sequence[tuple[Item, Report]]) -> bool:
        """Keep what is to be kept of these reports, and count; False if that failed, so that they are told again."""
        refused, conflicts = [], []
        for place, (_, report) in enumerate(reports):
            if place in attempt.suspects:
                refused.append(await encode_long_remark(REFUSED, attempt.suspects[place].why, report))
            elif attempt.accepted[place] != report.unihash:
                conflicts.append(
                    encode_remark(CONFLICT, attempt.accepted[place], report._replace(outhash_siginfo=None))
                )
        if not await self._refused.add(refused):
            return False
        await self._conflicts.add(conflicts)
        self.results["accepted"] += len(reports) - len(refused)
        self.results["refused"] += len(refused)
        self.conflicts += len(conflicts)
        if refused:
            log.error(
                "the upstream refuses %d reports, which are kept apart: %s. `shardhash client forwarding` lists them,"
                " `forward-refused` sends them again",
                len(refused),
                next(iter(attempt.suspects.values())).why,
            )
        return True

    async def _advance(self, item: Item) -> bool:
        self._outbox.journal.take(item)
        self._saved = self._saved or time.monotonic()
        await self._save(at_once=False)
        return True

    async def _save(self, *, at_once: bool) -> None:
        if self._saved and (at_once or time.monotonic() - self._saved >= SAVE_EVERY):
            self._saved = 0.0
            await self._outbox.save()

    # ---------------------------------------------------------------------------------------------- trouble

    def _taken_aback(self, pool: Pool, why: str) -> bool:
        """The upstream takes nothing."""
        if not self.trouble:
            log.warning(
                "the upstream %s takes no reports; %d wait in the outbox until it does: %s",
                pool.address,
                self._outbox.journal.count,
                why,
            )
        self.trouble = why
        return False

    def _cannot_read(self, error: OSError) -> bool:
        why = f"the outbox cannot be read: {error}"
        if self.trouble != why:
            log.error("reports are not sent on: %s", why)
        self.trouble = why
        return False

    def _went_well(self, pool: Pool) -> None:
        if self.trouble:
            log.warning("the upstream %s takes reports again; %d wait", pool.address, self._outbox.journal.count)
        self.trouble = ""

    def _client(self, pool: Pool) -> AsyncClient:
        client = self._clients.get(pool)
        if client is None:
            client = self._clients[pool] = pool.client(PATIENCE)
        return client


def _control_of(note: Any) -> Report | None:
    return Report(*note) if isinstance(note, list) and len(note) == len(Report._fields) else None
