"""A Store that knows no hash, keeps entries in a dict, and remembers what it was asked to write."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from shardhash.stores.interface import (
    Chosen,
    CollectionStatus,
    DivergingTasks,
    Doomed,
    DoomedTasks,
    EntryChanged,
    ForwardingHealth,
    FoundRows,
    GoesOn,
    Guesses,
    Health,
    Otherwise,
    Taken,
)
from shardhash.wire.batch import Found
from shardhash.wire.hashes import Buffer, Key
from shardhash.wire.imports import ImportedMapping, ImportedRow
from shardhash.wire.rows import NEW, Columns, Report, Where


class NoExplorer:
    """An Explorer of nothing."""

    notes_asking = False

    async def find(self, search: Mapping[str, Any], limit: int, *, whole: bool = False) -> FoundRows:
        return FoundRows(0, [], complete=True)

    async def read_row(self, method: str, taskhash: str, outhash: str) -> Columns | None:
        return None

    async def diverging(self, search: Mapping[str, Any], limit: int) -> DivergingTasks:
        return DivergingTasks(0, [], [], complete=True)

    async def guess(self, method: str, tasks: Sequence[tuple[str, str]]) -> Guesses:
        return Guesses([[] for _ in tasks], complete=False)

    async def saved(self, since: int) -> list[tuple[str | None, int, int]]:
        return []


class PlainCollector:
    """A Collector of nothing."""

    knows_asked = False

    async def begin(self, name: str, goes_on: GoesOn) -> int:
        return 0

    async def keep(self, name: str, unihashes: Buffer) -> int:
        return 0

    async def keep_used(self, name: str, day: int) -> int:
        return 0

    async def choose(self, name: str) -> Doomed:
        return Doomed(0, 0, 0, [])

    async def show(self, name: str, after: int, limit: int) -> DoomedTasks:
        return DoomedTasks([], None)

    async def take(self, name: str, mappings: Sequence[tuple[str, str, str]]) -> Taken:
        return Taken(0, 0)

    async def end(self, name: str) -> None:
        pass


class PlainQuarantine:
    """A Quarantine of nothing, which tells what it was asked to write."""

    def __init__(self, written: list[str]) -> None:
        self._written = written

    async def choose(self, search: Mapping[str, Any]) -> Chosen:
        return Chosen(0, 0, 0, 0)

    async def begin(self, search: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
        self._written.append("quarantine")
        return {**note, "name": "q", "rows": 0, "mappings": 0, "outhashes": 0, "shared": 0}

    async def entries(self) -> list[dict[str, Any]]:
        return []

    async def release(self, name: str) -> dict[str, Any]:
        return await self.begin({}, {"where": {}, "reason": "", "user": None, "time": ""}) | {"restored": 0}

    async def discard(self, rows: Sequence[tuple[str, str, str]]) -> int:
        self._written.append("discard")
        return 0


class PlainForwarding:
    """A Forwarding of nothing."""

    def __init__(self, written: list[str]) -> None:
        self._written = written

    def health(self) -> ForwardingHealth:
        return ForwardingHealth(0, 0, 0, 0.0, 0, {}, 0, 0, "")

    async def refused(self, limit: int) -> list[dict[str, Any]]:
        return []

    async def conflicts(self, limit: int) -> list[dict[str, Any]]:
        return []

    async def retry_refused(self) -> int:
        self._written.append("retry_refused")
        return 0

    async def drop_refused(self) -> int:
        self._written.append("drop_refused")
        return 0


class PlainStore:
    remote = False
    lapsed = False

    explorer = NoExplorer()
    collector = PlainCollector()

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Any] = {}
        self.written: list[str] = []
        """The names of the writing methods that were called."""
        self.quarantine = PlainQuarantine(self.written)
        self.forwarding = PlainForwarding(self.written)

    async def lookup(self, method: str, digests: Buffer) -> Found:
        return Found.of([None] * (len(digests) // 32))

    def find(self, method: str, digests: Buffer) -> Found | None:
        return None

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        return [None] * len(taskhashes)

    async def exists(self, digests: Buffer) -> bytes:
        return bytes(len(digests) // 32)

    async def get_row(self, method: str, taskhash: str) -> Columns | None:
        return None

    async def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool) -> Columns | None:
        return None

    async def report(self, reports: Sequence[Report], otherwise: Otherwise | None = None) -> list[bytes]:
        self.written.append("report")
        return [bytes.fromhex(report.unihash) for report in reports]

    async def report_equiv(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        self.written.append("report_equiv")
        return unihash

    async def store_row(self, row: Columns) -> None:
        self.written.append("store_row")

    async def take_mappings(self, mappings: Sequence[ImportedMapping]) -> list[str]:
        return [NEW for _ in mappings]

    async def take_rows(self, rows: Sequence[ImportedRow]) -> list[str]:
        return [NEW for _ in rows]

    async def remove(self, where: Where) -> int:
        self.written.append("remove")
        return 0

    async def clean_unused(self, max_age_seconds: int) -> int:
        self.written.append("clean_unused")
        return 0

    async def gc_mark(self, marks: Sequence[tuple[str, Where]]) -> list[int]:
        self.written.append("gc_mark")
        return [0] * len(marks)

    async def gc_status(self) -> CollectionStatus:
        return CollectionStatus(0, 0, None)

    async def gc_sweep(self, mark: str) -> int:
        self.written.append("gc_sweep")
        return 0

    async def usage(self) -> dict[str, int]:
        return {}

    async def health(self) -> Health:
        return Health([])

    async def get_entry(self, kind: str, name: str) -> Any:
        return copy.deepcopy(self.entries.get((kind, name)))

    async def list_entries(self, kind: str) -> dict[str, Any]:
        return {name: copy.deepcopy(value) for (of, name), value in self.entries.items() if of == kind}

    async def set_entry(self, kind: str, name: str, value: Any) -> None:
        if kind != "use":  # what a login leaves behind; nobody asked for it
            self.written.append("set_entry")
        if value is None:
            self.entries.pop((kind, name), None)
        else:
            self.entries[kind, name] = copy.deepcopy(value)

    async def settled(self) -> None:
        pass

    async def backfilled(self) -> int:
        return 0

    def follow_entries(self, changed: EntryChanged) -> None:
        """Nobody else writes here."""

    async def snapshot(self) -> None:
        self.written.append("snapshot")
