"""A Store over the plain model of the whole server (tests/model.py): complete, sequential, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from shardhash.errors import InvokeError
from shardhash.stores.interface import CollectionStatus, EntryChanged, Health, Otherwise
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key, split_digests, to_text
from shardhash.wire.rows import Columns, Report, Where
from tests.model import DETAILS, Model
from tests.stores.plain_store import NoExplorer, PlainCollector, PlainQuarantine

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class DictStore:
    """`model` holds rows and mappings; `trouble`, when set, is raised by whatever writes."""

    remote = False
    lapsed = False
    explorer = NoExplorer()
    collector = PlainCollector()
    quarantine = PlainQuarantine([])

    def __init__(self) -> None:
        self.model = Model()
        self.entries: dict[tuple[str, str], Any] = {}
        self.trouble: Exception | None = None
        self._moments = 0

    async def lookup(self, method: str, digests: Buffer) -> Found:
        keys = list(split_digests(digests))
        return Found.of(await self.lookup_keys(method, keys))

    def find(self, method: str, digests: Buffer) -> Found | None:
        return None

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        found = [self.model.get(method, to_text(taskhash)) for taskhash in taskhashes]
        return [None if unihash is None else bytes.fromhex(unihash) for unihash in found]

    async def exists(self, digests: Buffer) -> bytes:
        texts = [digests[start : start + 32].hex() for start in range(0, len(digests), 32)]
        return bytes(self.model.exists(text) for text in texts)

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        return self.model.get_all(method, taskhash)

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        return self.model.get_outhash(method, outhash, with_unihash)

    async def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> list[bytes]:
        return [await self._report(report, otherwise) for report in reports]

    async def _report(self, report: Report, otherwise: Otherwise | None) -> bytes:
        self._write()
        unihash = report.unihash
        equivalent = any(
            self.model.get(report.method, row["taskhash"])
            for row in self.model.rows
            if (row["method"], row["outhash"]) == (report.method, report.outhash) and row["taskhash"] != report.taskhash
        )
        if otherwise is not None and not equivalent and (elsewhere := await otherwise(report)) is not None:
            unihash = elsewhere.hex()
        return self._store(report, unihash, None)

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        self._write()
        return bytes.fromhex(self.model.report_equiv(method, taskhash, unihash.hex()))

    async def store_row(self, row: Columns) -> None:
        self._write()
        fields = {name: row[name] for name in ("method", "taskhash", "outhash", "unihash", *DETAILS)}
        report = Report(**fields)
        self.model.report_equiv(report.method, report.taskhash, report.unihash)
        self._store(report, report.unihash, row["created"])

    def _store(self, report: Report, unihash: str, created: str | None) -> bytes:
        details = {name: value for name in DETAILS if (value := getattr(report, name)) is not None}
        before = len(self.model.rows)
        in_force = self.model.report(report.method, report.taskhash, report.outhash, unihash, **details)
        for row in self.model.rows[before:]:
            self._moments += 1
            row["created"] = created or (LONG_AGO + timedelta(seconds=self._moments)).isoformat()
        self.model.rows.sort(key=lambda row: row["created"])
        return bytes.fromhex(in_force)

    async def remove(self, where: Where) -> int:
        self._write()
        return self.model.remove(where)

    async def clean_unused(self, max_age_seconds: int) -> int:
        """All rows are old."""
        self._write()
        return self.model.clean_unused()

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        self._write()
        return [self.model.gc_mark(mark, where) for mark, where in marks]

    async def gc_status(self) -> CollectionStatus:
        return CollectionStatus(**self.model.gc_status())

    async def gc_sweep(self, mark: str) -> int:
        self._write()
        count = self.model.gc_sweep(mark)
        if count is None:
            raise InvokeError(f"'{mark}' is not the current mark. Refusing to sweep")
        return count

    async def usage(self) -> dict[str, int]:
        mappings, rows = self.model.usage()
        entries = [kind for kind, _ in self.entries]
        return {
            "unihashes_v3": mappings,
            "outhashes_v2": rows,
            "users": entries.count("user"),
            "config": entries.count("config"),
        }

    async def health(self) -> Health:
        return Health([])

    async def get_entry(self, kind: str, name: str) -> Any:
        return self.entries.get((kind, name))

    async def list_entries(self, kind: str) -> dict[str, Any]:
        return {name: value for (of, name), value in self.entries.items() if of == kind}

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        self._write()
        self.entries[kind, name] = value
        if value is None:
            del self.entries[kind, name]

    async def settled(self) -> None:
        pass

    async def backfilled(self) -> int:
        return 0

    def follow_entries(self, changed: EntryChanged) -> None:
        """Nobody else writes here."""

    async def snapshot(self) -> None:
        """There is nothing to write."""

    def _write(self) -> None:
        if self.trouble is not None:
            raise self.trouble
