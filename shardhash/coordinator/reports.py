"""Report order: what happens between a report and its acknowledgement.

Reports that share (method, outhash) behave as if made one after the other; different ones run side by side and
share messages. Keyed by that pair, the worker that owns slot(outhash) gives the turn:

1. slot(outhash): wait for the turn; the index holds the taskhash, durably; it names the other taskhashes, oldest first.
2. Their mappings, oldest first, give the unihash; else upstream; else the client's own.
3. slot(taskhash): one log record stores row and mapping, each if absent; the mapping in force is the acknowledgement.
4. slot(outhash): the turn ends, whatever happened.

When one worker owns both slots and the outhash is new to it, which is so for most reports of a small server, it does
all four in one group commit.

A crash between 1 and 3 leaves an index item without a row. It says nothing, because step 2 asks for taskhashes that
have a *row* of this outhash; the client's retry completes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from shardhash.coordinator.links import WorkerLink
from shardhash.coordinator.store import Otherwise
from shardhash.wire.hashes import shard_of, slot_of, to_key
from shardhash.wire.messages import Report


class Clock:
    """Microseconds since 1970 UTC, each call later than the last: `created` orders reports and names turns."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


class Reports:
    """Carries reports out over the links of all shards."""

    def __init__(self, links: Sequence[WorkerLink], clock: Callable[[], int]) -> None:
        self._links = links
        self._clock = clock

    def link_of(self, hash_text: str) -> WorkerLink:
        """The link to the shard that owns a hash."""
        return self._links[shard_of(slot_of(to_key(hash_text)), len(self._links))]

    async def report(self, report: Report, otherwise: Otherwise | None, created: int | None = None) -> bytes:
        """The unihash in force, once the report is durable. `created`: microseconds, now unless given."""
        number = self._clock()
        if created is None:
            created = number
        turn = (report.method, report.outhash, report.taskhash, created, number)
        fields = (
            report.method,
            report.taskhash,
            report.outhash,
            created,
            report.owner,
            report.PN,
            report.PV,
            report.PR,
            report.task,
        )
        index, rows = self.link_of(report.outhash), self.link_of(report.taskhash)
        if index is rows and otherwise is None:
            found = await index.report(turn, fields, report.outhash_siginfo, report.unihash)
            if isinstance(found, str):
                return bytes.fromhex(found)
            page = found
        else:
            page = await index.take_turn(turn)
        try:
            unihash = await self._equivalent(report, page, otherwise)
            in_force: str = await rows.request("commit", fields, report.outhash_siginfo, unihash or report.unihash)
        finally:
            index.release_turn(turn)
        return bytes.fromhex(in_force)

    async def _equivalent(self, report: Report, page: list[tuple[int, str]], otherwise: Otherwise | None) -> str | None:
        if page:
            found = await self.oldest(report.method, report.outhash, report.taskhash, mapped=True, page=page)
            if found:
                return found[1]
        upstream = await otherwise() if otherwise is not None else None
        return None if upstream is None else upstream.hex()

    async def oldest(
        self, method: str, outhash: str, other_than: str, *, mapped: bool, page: list[tuple[int, str]] | None = None
    ) -> tuple[str, str] | None:
        """(taskhash, unihash or "") of the oldest row of an outhash, and with `mapped` of the oldest with a mapping.

        `other_than`: a taskhash to pass over. `page`: the first page of the index, when it is at hand.
        """
        index = self.link_of(outhash)
        if page is None:
            page = await index.request("page", method, outhash, other_than, None)
        while page:
            unihashes = await self._equivalents(method, outhash, [taskhash for _, taskhash in page], mapped)
            for (_, taskhash), unihash in zip(page, unihashes, strict=True):
                if unihash is not None:
                    return taskhash, unihash
            page = await index.request("page", method, outhash, other_than, page[-1])
        return None

    async def _equivalents(self, method: str, outhash: str, taskhashes: list[str], mapped: bool) -> list[str | None]:
        by_link: dict[WorkerLink, list[int]] = {}
        for position, taskhash in enumerate(taskhashes):
            by_link.setdefault(self.link_of(taskhash), []).append(position)
        answers: list[str | None] = [None] * len(taskhashes)
        parts = await asyncio.gather(
            *(
                link.request("equivalents", method, outhash, [taskhashes[i] for i in positions], mapped)
                for link, positions in by_link.items()
            )
        )
        for positions, unihashes in zip(by_link.values(), parts, strict=True):
            for position, unihash in zip(positions, unihashes, strict=True):
                answers[position] = unihash
        return answers
