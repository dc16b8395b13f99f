"""The chained store: a Store whose misses are asked of an upstream, and whose hits from there are kept (backfill).

Reports, removals and collections are local. A hit from upstream is answered at once and stored in the background.

With a forwarder, what clients report is sent on to the upstream. A report is stored here first, then added to the
outbox with the unihash that it got, and acknowledged when both are durable. In this order, because the upstream is to
give its task the same unihash unless it knows better, and because what is then answered otherwise is a conflict without
a second look. A crash in between takes a report that nobody was told of; its client reports it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from shardhash.base.tasks import BackgroundTasks
from shardhash.errors import InvokeError, ShardhashError
from shardhash.stores.chained.pool import PROBE_METHOD
from shardhash.stores.chained.upstream import Upstream
from shardhash.stores.forwarding.forwarder import Forwarder
from shardhash.stores.interface import (
    CollectionStatus,
    EntryChanged,
    Health,
    Otherwise,
    Store,
    TakesImports,
    UpstreamHealth,
)
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, Key, split_digests, to_digest, to_key, to_text
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import Columns, Report, Where

log = logging.getLogger(__name__)

BACKFILL_AT_ONCE = 256
"""Answers of the upstream that are being stored at one time."""
MAX_MISSES = 1_000_000
"""Hashes remembered as unknown upstream; about 100 bytes each."""


class Misses:
    """What the upstream did not know a short while ago: for `seconds` at most, and half of that at least."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._half = seconds / 2
        self._clock = clock
        self._turn = clock() + self._half
        self._new: set[tuple[str, Key]] = set()
        self._old: set[tuple[str, Key]] = set()

    def add(self, kind: str, keys: Sequence[Key]) -> None:
        """Remember that these are unknown. `kind` keeps unihashes and the taskhashes of each method apart."""
        if self._half > 0:
            self.expire()
            self._new.update((kind, key) for key in keys)

    def forget(self, kind: str, key: Key) -> None:
        """This one may be known from now on."""
        self._new.discard((kind, key))
        self._old.discard((kind, key))

    def unknown(self, kind: str, key: Key) -> bool:
        """Whether it need not be asked."""
        return (kind, key) in self._new or (kind, key) in self._old

    def expire(self) -> None:
        """Forget what is too old; before a series of `unknown`."""
        now = self._clock()
        if now >= self._turn or len(self._new) > MAX_MISSES // 2:
            self._old = self._new if now < self._turn + self._half else set()
            self._new = set()
            self._turn = now + self._half


class ChainedStore:
    """A Store that asks `upstream` what `local` does not know."""

    remote = True

    def __init__(self, local: Store, upstream: Upstream, misses: Misses, forwarder: Forwarder | None = None) -> None:
        self._local = local
        self.forwarding = forwarder
        self.explorer = local.explorer
        self.quarantine = local.quarantine
        self.collector = local.collector
        self._upstream = upstream
        self._misses = misses
        self._backfill: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self._tasks = BackgroundTasks()
        self.may_keep: Callable[[], bool] = lambda: True
        """Whether what the upstream says is stored; a disk that is nearly full has no room for it."""

    def start(self) -> None:
        """Begin to backfill."""
        self._upstream.start()
        self._tasks.start(self._fill(), "backfill")
        if self.forwarding is not None:
            self.forwarding.start()

    async def close(self) -> None:
        """Store what is queued, as far as that works, and leave the upstream."""
        await self._backfill.join()
        await self._tasks.close()
        if self.forwarding is not None:
            await self.forwarding.close()
        await self._upstream.close()

    async def backfilled(self) -> int:
        """See Store."""
        queued = self._backfill.qsize()
        await self._backfill.join()
        return queued

    # ------------------------------------------------------------------------------------------- questions

    async def lookup(self, method: str, digests: Buffer) -> Found:
        """See Store."""
        found = await self._local.lookup(method, digests)
        if found.known is None:
            return found
        if method == PROBE_METHOD and len(digests) == DIGEST_SIZE:
            await self._upstream.pools.take_probe(bytes(digests))
            return found
        if self._upstream.down:
            return found
        keys = list(split_digests(digests))
        asked = self._worth_asking(method, keys, found.known)
        if not asked:
            return found
        unihashes = found.unihashes()
        del found  # a part of the answers to many callers, which need not stay until the upstream has answered
        answer = await self._upstream.lookup(method, b"".join([keys[i] for i in asked]))
        if answer is not None:
            self._take(method, keys, asked, answer.unihashes(), unihashes)
        return Found.of(unihashes)

    def find(self, method: str, digests: Buffer) -> Found | None:
        """See Store. What is unknown here may be known upstream."""
        found = self._local.find(method, digests)
        return found if found is not None and found.known is None else None

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        """See Store."""
        unihashes = await self._local.lookup_keys(method, taskhashes)
        asked = self._worth_asking(method, taskhashes, bytes(unihash is not None for unihash in unihashes))
        if not asked or self._upstream.down:
            return unihashes
        answer = await self._upstream.lookup_texts(method, [to_text(taskhashes[i]) for i in asked])
        if answer is not None:
            digests = [None if unihash is None else to_digest(unihash) for unihash in answer]
            self._take(method, taskhashes, asked, digests, unihashes)
        return unihashes

    async def exists(self, digests: Buffer) -> bytes:
        """See Store."""
        status = await self._local.exists(digests)
        if 0 not in status or self._upstream.down:
            return status
        keys = list(split_digests(digests))
        asked = self._worth_asking("", keys, status)
        answer = await self._upstream.exists(b"".join([keys[i] for i in asked])) if asked else None
        if answer is None:
            return status
        self._misses.add("", [keys[i] for i, there in zip(asked, answer, strict=True) if not there])
        merged = bytearray(status)
        for position in compress(asked, answer):
            merged[position] = 1
        return bytes(merged)

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """See Store."""
        row = await self._local.get_row(method, taskhash)
        if row is None:
            row = await self._upstream.get_row(method, taskhash)
            await self._keep(row)
        return row

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        """See Store."""
        row = await self._local.get_outhash(method, outhash, taskhash, with_unihash)
        if row is None:
            row = await self._upstream.get_outhash(method, outhash, taskhash, with_unihash)
            if with_unihash:
                await self._keep(row)
        return row

    def _worth_asking(self, kind: str, keys: Sequence[Key], known: bytes) -> list[int]:
        """Positions of the hashes that are unknown here and not remembered as unknown upstream."""
        self._misses.expire()
        unknown = self._misses.unknown
        return [i for i, key in enumerate(keys) if not known[i] and not unknown(kind, key)]

    def _take(
        self,
        method: str,
        keys: Sequence[Key],
        asked: list[int],
        answers: list[bytes | None],
        unihashes: list[bytes | None],
    ) -> None:
        """Fill in the upstream's answers, queue hits for backfill, remember misses."""
        self._misses.add(method, [keys[i] for i, unihash in zip(asked, answers, strict=True) if unihash is None])
        for position, unihash in zip(asked, answers, strict=True):
            if unihash is not None:
                unihashes[position] = unihash
                self._backfill.put_nowait((method, to_text(keys[position]), unihash))

    # --------------------------------------------------------------------------------------------- backfill

    async def _fill(self) -> None:
        while True:
            some = [await self._backfill.get()]
            while len(some) < BACKFILL_AT_ONCE and not self._backfill.empty():
                some.append(self._backfill.get_nowait())
            failures = [error for error in await asyncio.gather(*map(self._store_mapping, some)) if error is not None]
            if failures:  # nothing is lost: they are asked upstream again
                log.warning("%d answers of the upstream were not stored: %s", len(failures), failures[0])

    async def _store_mapping(self, mapping: tuple[str, str, bytes]) -> ShardhashError | None:
        """Store a mapping of the upstream; why it could not be stored."""
        try:
            if self.may_keep():  # nothing is lost: it is asked upstream again
                await self._local.report_equiv(*mapping)
        except ShardhashError as error:
            return error
        finally:
            self._backfill.task_done()
        return None

    async def _keep(self, row: Columns | None) -> None:
        if row is not None and self.may_keep():
            try:
                await self._local.store_row(row)
            except ShardhashError as error:
                log.warning("a row of the upstream was not stored: %s", error)

    # ------------------------------------------------------------------------------------------------ local

    async def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> list[bytes]:
        """See Store."""

        async def ask(report: Report) -> bytes | None:
            row = await self._upstream.get_outhash(report.method, report.outhash, report.taskhash, True)
            unihash = row.get("unihash") if row else None
            return to_digest(unihash) if unihash else None

        for report in reports:
            self._misses.forget(report.method, to_key(report.taskhash))
        stored = self._local.report(reports, otherwise or ask)
        return await stored if self.forwarding is None else await self._forward(reports, stored)

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """See Store."""
        if self.forwarding is None:
            return await self._local.report_equiv(method, taskhash, unihash)

        async def store() -> list[bytes]:
            return [await self._local.report_equiv(method, taskhash, unihash)]

        return (await self._forward([Report(method, taskhash, "", "")], store()))[0]

    async def _forward(self, reports: Sequence[Report], stored: Awaitable[list[bytes]]) -> list[bytes]:
        """The unihashes of reports that are stored, once they are in the outbox, too. Goes on if the caller leaves."""
        unihashes: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._tasks.start(self._forward_to_the_end(reports, stored, unihashes), "a report")
        return await unihashes

    async def _forward_to_the_end(
        self, reports: Sequence[Report], stored: Awaitable[list[bytes]], result: asyncio.Future[list[bytes]]
    ) -> None:
        assert self.forwarding is not None
        try:
            unihashes = await stored
            given = [report._replace(unihash=unihash.hex()) for report, unihash in zip(reports, unihashes, strict=True)]
            await self.forwarding.add(given)
        except Exception as error:  # noqa: BLE001  # it is the caller's
            if not result.done():
                result.set_exception(error)
        else:
            if not result.done():
                result.set_result(unihashes)
        finally:
            result.cancel()  # the server stops

    async def store_row(self, row: Columns) -> None:
        """See Store."""
        await self._local.store_row(row)

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        """See TakesImports."""
        return await self._importing().take_mappings(mappings)

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        """See TakesImports."""
        return await self._importing().take_rows(rows)

    def _importing(self) -> TakesImports:
        if not isinstance(self._local, TakesImports):
            raise InvokeError("what keeps the hashes of this server takes no imports")
        return self._local

    async def remove(self, where: Where) -> int:
        """See Store."""
        return await self._local.remove(where)

    async def clean_unused(self, max_age_seconds: int) -> int:
        """See Store."""
        return await self._local.clean_unused(max_age_seconds)

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store."""
        return await self._local.gc_mark(marks)

    async def gc_status(self) -> CollectionStatus:
        """See Store."""
        return await self._local.gc_status()

    async def gc_sweep(self, mark: str) -> int:
        """See Store."""
        return await self._local.gc_sweep(mark)

    async def usage(self) -> dict[str, int]:
        """See Store."""
        return await self._local.usage()

    async def health(self) -> Health:
        """See Store."""
        local, upstream = await self._local.health(), self._upstream
        figures = UpstreamHealth(
            upstream.down,
            upstream.questions,
            upstream.seconds,
            self._backfill.qsize(),
            upstream.pools.describe(),
            None if self.forwarding is None else self.forwarding.health(),
        )
        return replace(local, upstream=figures)

    async def get_entry(self, kind: str, name: str) -> Any:
        """See Store."""
        return await self._local.get_entry(kind, name)

    async def list_entries(self, kind: str) -> dict[str, Any]:
        """See Store."""
        return await self._local.list_entries(kind)

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        """See Store."""
        await self._local.set_entry(kind, name, value)

    async def settled(self) -> None:
        """See Store."""
        await self._local.settled()

    @property
    def lapsed(self) -> bool:
        """See Store."""
        return self._local.lapsed

    def follow_entries(self, changed: EntryChanged) -> None:
        """See Store."""
        self._local.follow_entries(changed)

    async def snapshot(self) -> None:
        """See Store."""
        await self._local.snapshot()
