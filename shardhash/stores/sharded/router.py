"""The router: the Store over worker processes. Which shard is asked what; the links carry it there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

from shardhash.base.timestamps import from_iso
from shardhash.errors import InvokeError, UnavailableError
from shardhash.link.operations import GC_MARK
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.interface import CollectionStatus, Otherwise
from shardhash.stores.sharded.lookup_rounds import Lookups
from shardhash.stores.sharded.report_order import Clock, Reports
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key, to_text
from shardhash.wire.rows import DETAILS, SIGINFO, Columns, Report, Where

MARKS_AT_ONCE = 2000
"""Marks of one request to the workers: some 10 ms of work for each."""
_T = TypeVar("_T")


class Router:
    """A Store whose hashes lie in workers, one link each; shard 0 also keeps users and settings."""

    remote = False

    def __init__(self, links: Sequence[WorkerLink]) -> None:
        self._links = links
        self._clock = Clock()
        self._lookups = Lookups(links)
        self._reports = Reports(links, self._clock)
        self._collection = asyncio.Lock()

    # ------------------------------------------------------------------------------------------- questions

    async def lookup(self, method: str, digests: Buffer) -> Found:
        """See Store."""
        return await self._lookups.get(method, digests)

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        """See Store."""
        by_link: dict[WorkerLink, list[str]] = {}
        for text in map(to_text, taskhashes):
            by_link.setdefault(self._reports.link_of(text), []).append(text)
        parts = await asyncio.gather(*(link.request("unihashes", method, texts) for link, texts in by_link.items()))
        found: dict[str, str | None] = {}
        for texts, unihashes in zip(by_link.values(), parts, strict=True):
            found.update(zip(texts, unihashes, strict=True))
        answers = [found[to_text(taskhash)] for taskhash in taskhashes]
        return [None if unihash is None else bytes.fromhex(unihash) for unihash in answers]

    async def exists(self, digests: Buffer) -> bytes:
        """See Store."""
        return await self._lookups.exists(digests)

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        """See Store."""
        row: Columns | None = await self._reports.link_of(taskhash).request("oldest", method, taskhash)
        return row

    async def get_outhash(self, method: str, outhash: str, _taskhash: str, with_unihash: bool) -> Columns | None:
        """See Store."""
        while found := await self._reports.oldest(method, outhash, "", mapped=with_unihash):
            link = self._reports.link_of(found[0])
            row: Columns | None = await link.request("row", method, found[0], outhash, with_unihash)
            if row is not None:
                return row
            # It was removed in between: look again.
        return None

    # --------------------------------------------------------------------------------------------- reports

    def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> Awaitable[list[bytes]]:
        """See Store."""
        return self._reports.report(reports, otherwise)

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """See Store."""
        in_force: str = await self._reports.link_of(taskhash).request("map", method, taskhash, unihash.hex())
        return bytes.fromhex(in_force)

    async def store_row(self, row: Columns) -> None:
        """See Store."""
        fields = {name: row.get(name) for name in (*DETAILS, SIGINFO)}
        report = Report(
            method=row["method"] or "",
            taskhash=row["taskhash"] or "",
            outhash=row["outhash"] or "",
            unihash=row["unihash"] or "",
            **fields,
        )
        # The mapping first: as a mere report, the row would get the unihash of its local equivalents.
        await self.report_equiv(report.method, report.taskhash, bytes.fromhex(report.unihash))
        await self._reports.report([report], None, created=_microseconds(row.get("created")))

    # -------------------------------------------------------------------------------------------- removals

    async def remove(self, where: Where) -> int:
        """See Store."""
        return await self._remove_rows("remove", where)

    async def clean_unused(self, max_age_seconds: int) -> int:
        """See Store."""
        return await self._remove_rows("clean", self._clock() - max_age_seconds * 1_000_000)

    async def _remove_rows(self, operation: str, argument: object) -> int:
        job = secrets.token_hex(8)
        await self._ask_all("watch", job)
        try:
            return sum(await _all(self._remove_from(link, job, operation, argument) for link in self._links))
        finally:
            with contextlib.suppress(UnavailableError):  # a watch ends with the link as well
                await self._ask_all("unwatch", job)

    async def _remove_from(self, link: WorkerLink, job: str, operation: str, argument: object) -> int:
        count, done = 0, False
        while not done:
            answer = await link.request(operation, job, argument)
            count += answer["count"]
            done = answer["done"]
            await self._unindex(job, answer["unindex"])
        return count

    async def _unindex(self, job: str, gone: list[tuple[str, list[tuple[str, str]]]]) -> None:
        by_link: dict[tuple[WorkerLink, str], list[tuple[str, str]]] = {}
        for method, pairs in gone:
            for pair in pairs:
                by_link.setdefault((self._reports.link_of(pair[0]), method), []).append(pair)
        await _all(_ask(link, "unindex", job, method, pairs) for (link, method), pairs in by_link.items())

    # ------------------------------------------------------------------------------------ garbage collection

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        """See Store. Shard 0 is told first: its mark is the one that counts after a crash."""
        counts = [0] * len(marks)
        async with self._collection:
            for start in range(0, len(marks), MARKS_AT_ONCE):
                some = marks[start : start + MARKS_AT_ONCE]
                await self._links[0].request("set", "config", GC_MARK, some[0][0])
                parts = await self._ask_all("marks", some)
                counts[start : start + len(some)] = map(sum, zip(*parts, strict=True))
        return counts

    async def gc_status(self) -> CollectionStatus:
        """See Store."""
        parts = await self._ask_all("status")
        keep = sum(part[0] for part in parts)
        return CollectionStatus(keep, sum(part[1] for part in parts) - keep, parts[0][2] or None)

    async def gc_sweep(self, mark: str) -> int:
        """See Store.

        Every shard sweeps while the mark is current everywhere, then shard 0 forgets the mark: from there on the
        sweep has happened. Until then it can be asked again, after any crash.
        """
        async with self._collection:
            if not mark or await self.get_entry("config", GC_MARK) != mark:
                raise InvokeError(f"'{mark}' is not the current mark. Refusing to sweep")
            counts = await self._ask_all("sweep", mark)
            await self.set_entry("config", GC_MARK, None)
            await self._spread_mark(None)
        return sum(counts)

    async def reconcile(self) -> None:
        """Give every shard the current mark of shard 0; after a start, since a crash may have come between."""
        async with self._collection:
            await self._spread_mark(await self.get_entry("config", GC_MARK))

    async def _spread_mark(self, mark: str | None) -> None:
        await _all(_ask(link, "set", "config", GC_MARK, mark) for link in self._links[1:])

    # ---------------------------------------------------------------------------------------------- entries

    async def usage(self) -> dict[str, int]:
        """See Store."""
        parts = await self._ask_all("counts")
        return {
            "unihashes_v3": sum(part["mappings"] for part in parts),
            "outhashes_v2": sum(part["rows"] for part in parts),
            "users": parts[0]["users"],
            "config": parts[0]["config"],
        }

    async def get_entry(self, kind: str, name: str) -> Any:
        """See Store."""
        return await self._links[0].request("get", kind, name)

    async def list_entries(self, kind: str) -> dict[str, Any]:
        """See Store."""
        entries: dict[str, Any] = await self._links[0].request("list", kind)
        return entries

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        """See Store."""
        await self._links[0].request("set", kind, name, value)

    async def backfilled(self) -> int:
        """See Store. There is no upstream."""
        return 0

    async def snapshot(self) -> None:
        """See Store."""
        await self._ask_all("snapshot")

    async def _ask_all(self, operation: str, *arguments: object) -> list[Any]:
        """The results of an operation on every shard."""
        return await _all(_ask(link, operation, *arguments) for link in self._links)


async def _ask(link: WorkerLink, operation: str, *arguments: object) -> Any:
    """The result of an operation; a link that gave up refuses it only here, among the others."""
    return await link.request(operation, *arguments)


async def _all(asked: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results of all; an error only once none is under way any more.

    A sweep that goes on in one shard, after another refused it, would meet the marks of the next collection.
    """
    results = await asyncio.gather(*asked, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _microseconds(created: str | None) -> int | None:
    """A time of another server, whose ISO 8601 may lack the zone; None unless it is one from 1970 to 9999, UTC."""
    try:
        return from_iso(created or "")
    except ValueError:
        return None
