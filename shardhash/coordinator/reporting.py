"""Reporting: stores what clients report, if there is room for it; who may not report is told what he would get."""

from __future__ import annotations

import asyncio

from shardhash.coordinator.blocks import lookup_block
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.services import Services
from shardhash.errors import NoRoomError, ShardhashError
from shardhash.wire import messages as m
from shardhash.wire import streams
from shardhash.wire.commands import COMMANDS
from shardhash.wire.hashes import to_digest
from shardhash.wire.rows import Columns, Report

REPORTS_AT_ONCE = 350
"""Reports of one message that are under way at one time: 3 ms of work here, and as many in a commit of a worker."""
_TO_STORE = COMMANDS["report"].needs | {m.REPORT}
"""What the caller of a report that is to be stored holds."""


class Reporting:
    """Stores reports. Raises NoRoomError, to who asked for words, and what a Store raises."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._counters = services.counters
        self._quotas = services.quotas
        self._room = services.room

    def begin(self, caller: Caller, report: Report) -> asyncio.Future[list[bytes]] | None:
        """Begin to store a report, which `end` has to hear of; None, and nothing is done, if `store` is to be asked."""
        if caller.read_only or self._room.low or not caller.identity.may(_TO_STORE):
            return None
        if not self._quotas.count_one(caller, report):
            return None
        stored = self._store.report([_owned(caller, report)])
        return stored if isinstance(stored, asyncio.Future) else asyncio.ensure_future(stored)

    def end(self, caller: Caller, report: Report, stored: asyncio.Future[list[bytes]]) -> bytes:
        """The unihash of a report that `begin` began and that is done."""
        try:
            unihashes = stored.result()
        except ShardhashError as error:
            self._counters.dropped(1, error)
            self._quotas.give_back(caller, [report])
            raise
        self._counters.stored_one(report, unihashes[0], caller.build)
        return unihashes[0]

    async def store(self, caller: Caller, reports: list[Report]) -> list[bytes]:
        """Store reports; to one who may not, tell the unihashes that they would get."""
        if caller.read_only or m.REPORT not in caller.identity.permissions:
            self._counters.reports_dropped["read-only" if caller.read_only else "permission"] += len(reports)
            return await self._would_get(reports)
        if not self._may_store(caller, reports):
            return await self._would_get(reports)
        unihashes: list[bytes] = []
        try:
            for some in streams.parts(reports, REPORTS_AT_ONCE):
                unihashes += await self._store_some(caller, [_owned(caller, report) for report in some])
        except ShardhashError:
            self._quotas.give_back(caller, reports[len(unihashes) :])
            raise
        return unihashes

    async def store_equivalence(self, caller: Caller, request: m.ReportEquiv) -> bytes:
        """Store a mapping without a row; the unihash in force."""
        stored = [Report(request.method, request.taskhash, "", request.unihash)]
        if not self._may_store(caller, stored):
            block = streams.group_taskhashes(request.method, [request.taskhash])
            found = (await lookup_block(self._store, block)).unihashes()[0]
            return found or to_digest(request.unihash)
        try:
            return await self._store.report_equiv(request.method, request.taskhash, to_digest(request.unihash))
        except ShardhashError:
            self._quotas.give_back(caller, stored)
            raise

    def _may_store(self, caller: Caller, reports: list[Report]) -> bool:
        """Whether there is room for reports of somebody, which counts them. NoRoomError to who is told in words.

        A build would fail by a refusal, and at a closed connection try again three times for each task. It is answered
        as one who may not report.
        """
        reason, text = ("disk-low", self._room.refuse()) if self._room.low else ("quota", None)
        text = text or self._quotas.take(caller, reports)
        if text is None:
            return True
        self._counters.reports_dropped[reason] += len(reports)
        if caller.in_words:
            raise NoRoomError(text)
        return False

    async def _store_some(self, caller: Caller, reports: list[Report]) -> list[bytes]:
        try:
            unihashes = await self._store.report(reports)
        except ShardhashError as error:
            self._counters.dropped(len(reports), error)
            raise
        self._counters.stored(reports, unihashes, caller.build)
        return unihashes

    async def _would_get(self, reports: list[Report]) -> list[bytes]:
        rows: list[Columns | None] = []
        for some in streams.parts(reports, REPORTS_AT_ONCE):
            rows += await asyncio.gather(
                *[self._store.get_outhash(report.method, report.outhash, report.taskhash, True) for report in some]
            )
        first: dict[tuple[str, str], str] = {}
        return [
            to_digest((row["unihash"] if row else None) or first.setdefault((method, outhash), unihash))
            for row, (method, _, outhash, unihash, *_) in zip(rows, reports, strict=True)
        ]


def _owned(caller: Caller, report: Report) -> Report:
    """The report, of whom it is: a user's own name, or what one who did not log in says."""
    username = caller.identity.username
    return report if username is None else report._replace(owner=username)
