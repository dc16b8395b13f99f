"""Merging: databases of the stock server into the state of shards, one after the other.

1. Mappings are write-once: what is there already wins, be it from the data directory or from an earlier database.
2. Rows are the same when method, taskhash and outhash are; the one that was created first is kept, whole.
3. A mapping keeps its GC mark as long as its database is in the same collection as the whole (or none is under way).
   Otherwise it gets the current mark, as a report of now would: the sweep must not take what nobody has looked at.
4. Users are kept as they are here. So is the mark of a collection in progress.

So it does not matter how often a database is merged: the second time, nothing is new.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardhash.base.entry_kinds import ADMINISTRATOR, CONFIG, GC_MARK, USER
from shardhash.base.tokens import from_stock
from shardhash.moving.packing import Packers
from shardhash.moving.schema import Source, SourceReport, Tell
from shardhash.moving.times import SourceTimes
from shardhash.shard.directory.reshard import write_start
from shardhash.shard.state import packing, records, small_sets
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.packing import pack_key
from shardhash.shard.state.table import Details, Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.siginfo import SiginfoFiles
from shardhash.wire.hashes import Key, ShardMap, slot_of, to_key, to_text

EVERY = 20_000
"""Rows between one progress text and the next."""
BATCH_TEXTS = 1000
BATCH_CHARACTERS = 1 << 20
"""Texts, and their characters, that are packed together."""
PERMISSIONS = frozenset(("@read", "@report", "@db-admin", "@user-admin", "@all"))

Pending = tuple[int, str, Key, Key, int, Details]
"""Shard, method, taskhash, outhash, created and details of a row whose siginfo text is being packed."""


class Merger:
    """The state of shards while databases are merged into it; `finish` writes it. Memory: the state without texts."""

    def __init__(self, fs: FileSystem, folders: Sequence[Path], tables: Sequence[Table], packers: Packers) -> None:
        """`tables` is what the shards in these folders hold so far, their siginfo files lie there already."""
        self._fs = fs
        self._folders = folders
        self._tables = tables
        self._owners = ShardMap(len(tables)).owners
        self._texts = [SiginfoFiles(fs, folder) for folder in folders]
        self._packers = packers
        self._parts: dict[str, list[MethodTable]] = {}
        self._details: dict[tuple[Any, ...], Details] = {}
        self._pending: list[Pending] = []
        self._pending_texts: list[str] = []
        self._characters = 0

    def add(self, source: Source, times: SourceTimes, tell: Tell, *, users: bool) -> SourceReport:
        """Merge a database; what became of it. Raises ConfigError when it is broken, StorageError for the disk."""
        report = SourceReport(source.name)
        config = source.config()
        report.marked = config.get(GC_MARK, "")
        self._take_config(config)
        self._add_mappings(source, report, tell)
        self._add_rows(source, times, report, tell)
        if users:
            self._add_users(source, report)
        report.naive_times, report.bad_times = times.naive, times.bad
        return report

    def finish(self, tell: Tell) -> None:
        """Write everything, durably, and read it back. Raises StorageError, SyncError."""
        for number, (folder, table, texts) in enumerate(zip(self._folders, self._tables, self._texts, strict=True)):
            tell(f"writing shard {number + 1} of {len(self._folders)}")
            texts.close()
            table.asked_from = 0  # today: nobody knows when what is new was asked for
            write_start(self._fs, folder, table, texts.next_number)

    # ------------------------------------------------------------------------------------------ settings, users

    def _take_config(self, config: dict[str, str]) -> None:
        here = self._tables[0].entries.setdefault(CONFIG, {})
        mark = config.get(GC_MARK, "")
        if mark and not here.get(GC_MARK):
            for table in self._tables:
                table.entries.setdefault(CONFIG, {})[GC_MARK] = mark
                for method, part in table.methods.items():
                    table.apply((records.MARK, mark, method, [to_text(key) for key in part.mappings]))
        for name, value in config.items():
            if name not in (ADMINISTRATOR, GC_MARK):
                here.setdefault(name, value)

    def _add_users(self, source: Source, report: SourceReport) -> None:
        here = self._tables[0].entries.setdefault(USER, {})
        for username, token, permissions in source.users():
            name = str(username)
            entry = user_entry(token, permissions)
            if entry is None:
                text = f"user {name}: its token is kept in a form that cannot be checked; give it a new one"
                report.leave_out(report.users, text)
            elif name not in here:
                here[name] = entry
                report.users["new"] += 1
            elif all(here[name].get(field) == value for field, value in entry.items() if field != "id"):
                report.users["known"] += 1
            else:
                report.conflict("user", "the one that is here", "this one", username=name)

    # ------------------------------------------------------------------------------------------------- mappings

    def _add_mappings(self, source: Source, report: SourceReport, tell: Tell) -> None:
        total = source.size("mappings")
        counts = report.mappings
        current = self._tables[0].current_mark()
        foreign = current if current and report.marked != current else ""
        for number, (method, taskhash, unihash, mark) in enumerate(source.mappings(), 1):
            if number % EVERY == 0:
                tell(f"{source.name}: {number:,} of about {total:,} mappings")
            if not (type(method) is str and type(taskhash) is str):
                report.leave_out(counts, f"mapping {method!r} {taskhash!r}: it is not text")
                continue
            digest = to_key(unihash) if type(unihash) is str else ""
            if isinstance(digest, str):
                what = f"mapping {method} {taskhash}: its unihash {unihash!r:.100} is not 64 lowercase hex digits"
                report.leave_out(counts, what)
                continue
            key = to_key(taskhash)
            shard = self._owners[key[0] if type(key) is bytes else slot_of(key)]
            part = (self._parts.get(method) or self._parts_of(method))[shard]
            found = part.mappings.get(key)
            if found is None:
                carried = foreign or (mark if type(mark) is str else "")
                self._tables[shard].set_mapping(part, key, digest, carried)
                counts["new"] += 1
            elif found == digest:
                counts["known"] += 1
            else:
                report.conflict("mapping", found.hex(), unihash, method=method, taskhash=taskhash)

    # ----------------------------------------------------------------------------------------------------- rows

    def _add_rows(self, source: Source, times: SourceTimes, report: SourceReport, tell: Tell) -> None:
        total = source.size("rows")
        for number, (method, taskhash, outhash, created, *rest) in enumerate(source.rows(), 1):
            if number % EVERY == 0:
                tell(f"{source.name}: {number:,} of about {total:,} outhash rows")
            if not (type(method) is str and type(taskhash) is str and type(outhash) is str):
                report.leave_out(report.rows, f"outhash row {method!r} {taskhash!r} {outhash!r}: it is not text")
                continue
            text = rest.pop()
            details = self._details.get(tuple(rest)) or self._details_of(rest)
            key = to_key(taskhash)
            shard = self._owners[key[0] if type(key) is bytes else slot_of(key)]
            row = (shard, method, key, to_key(outhash), times.timestamp(created), details)
            older = self._older(*row[:5])
            if older is None:
                report.rows["known"] += 1
                continue
            report.rows["older" if older else "new"] += 1
            if text is None:
                self._put(row, 0)
            else:
                self._queue(row, text if type(text) is str else _as_text(text) or "")
        self._submit()
        self._packers.drain()

    def _older(self, shard: int, method: str, taskhash: Key, outhash: Key, created: int) -> bool | None:
        """Whether a row is older than the one that is here; False when there is none, None when it is not."""
        small_set = (self._parts.get(method) or self._parts_of(method))[shard].rows.get(taskhash)
        if small_set is None:
            return False
        item = small_sets.find(small_set, pack_key(outhash), packing.row_name)
        if item is None:
            return False
        return True if created < packing.unpack_row(item)[0] else None

    def _queue(self, row: Pending, text: str) -> None:
        self._pending.append(row)
        self._pending_texts.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS or len(self._pending) >= BATCH_TEXTS:
            self._submit()

    def _submit(self) -> None:
        rows, texts = self._pending, self._pending_texts
        self._pending, self._pending_texts, self._characters = [], [], 0
        if rows:
            self._packers.submit(texts, lambda packed: self._put_packed(rows, packed))

    def _put_packed(self, rows: list[Pending], packed: list[bytes]) -> None:
        by_shard: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            by_shard.setdefault(row[0], []).append(position)
        for shard, positions in by_shard.items():
            references = self._texts[shard].put_packed([packed[position] for position in positions])
            for position, reference in zip(positions, references, strict=True):
                # A database without its unique index may hold a row twice, and both may have waited here.
                if self._older(*rows[position][:5]) is not None:
                    self._put(rows[position], reference)

    def _put(self, row: Pending, siginfo: int) -> None:
        shard, method, taskhash, outhash, created, details = row
        parts = self._parts.get(method) or self._parts_of(method)
        self._tables[shard].put_row(parts[shard], taskhash, outhash, created, details, siginfo)
        index = self._owners[slot_of(outhash)]
        self._tables[index].put_index(parts[index], outhash, taskhash, created)

    def _details_of(self, values: Sequence[Any]) -> Details:
        owner, pn, pv, pr, task = map(_as_text, values)
        details = self._details[tuple(values)] = (owner, pn, pv, pr, task)
        return details

    def _parts_of(self, method: str) -> list[MethodTable]:
        parts = self._parts[method] = [table.method(method) for table in self._tables]
        return parts


def user_entry(token: object, permissions: object) -> dict[str, Any] | None:
    """A user as we keep it (coordinator/users.py); None when its token can never be checked."""
    kept = from_stock(token) if isinstance(token, str) else None
    if kept is None:
        return None
    words = permissions.split() if isinstance(permissions, str) else []
    return {"id": secrets.token_hex(8), "permissions": sorted(PERMISSIONS.intersection(words)), **kept}


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
