"""Changes: what a group of writes does to a table, decided before any of it is stored.

A `Transaction` reads the table as it will be when the transaction is applied, and gathers records. The writer
appends the records to the log, syncs, and only then applies them: lookups never see what a crash could take back.
Pure, like the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from shardhash.base.entry_kinds import CONFIG, GC_MARK
from shardhash.shard.state import records
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.wire.hashes import Key, to_key, to_text


class RowFields(NamedTuple):
    """The first fields of a ``row`` record, in its order; `created` is in microseconds since 1970 UTC."""

    method: str
    taskhash: str
    outhash: str
    created: int
    owner: str | None
    PN: str | None
    PV: str | None
    PR: str | None
    task: str | None


class Transaction:
    """Records of one group commit, and the table as they leave it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.records: list[Record] = []
        self._mappings: dict[tuple[str, Key], bytes | None] = {}
        self._rows: dict[tuple[str, Key, Key], bool] = {}
        self._index: dict[tuple[str, Key], dict[Key, bool]] = {}
        self._mark: str | None = None

    # ----------------------------------------------------------------------------------------------- reads

    def unihash(self, method: str, taskhash: Key) -> bytes | None:
        """The mapping as this transaction leaves it."""
        place = (method, taskhash)
        return self._mappings[place] if place in self._mappings else self.table.unihash(method, taskhash)

    def has_row(self, method: str, taskhash: Key, outhash: Key) -> bool:
        """Whether the row is there as this transaction leaves it."""
        known = self._rows.get((method, taskhash, outhash))
        return self.table.row(method, taskhash, outhash) is not None if known is None else known

    def is_indexed(self, method: str, outhash: Key, taskhash: Key) -> bool:
        """Whether the index item is there as this transaction leaves it."""
        known = self._index.get((method, outhash), {}).get(taskhash)
        return self.table.indexed(method, outhash, taskhash) if known is None else known

    def older_rows(self, method: str, taskhash: Key) -> list[Key]:
        """The outhashes of the rows that a taskhash without a mapping has in the table."""
        part = self.table.methods.get(method)
        if part is None or taskhash not in part.unmapped:
            return []
        return [row.outhash for row in self.table.rows(method, taskhash)]

    def current_mark(self) -> str:
        """The mark that new mappings carry."""
        return self.table.current_mark() if self._mark is None else self._mark

    # ---------------------------------------------------------------------------------------------- writes

    def insert_mapping(self, method: str, taskhash: str, unihash: bytes) -> bytes:
        """Insert a mapping unless there is one; the unihash in force."""
        place = (method, to_key(taskhash))
        found = self.unihash(*place)
        if found is not None:
            return found
        self._mappings[place] = unihash
        self.records.append((records.MAP, method, taskhash, unihash.hex(), self.current_mark()))
        return unihash

    def insert_row(
        self,
        row: RowFields,
        siginfo: int,
        unihash: bytes,
        *,
        indexed: bool = False,
        keys: tuple[Key, Key] | None = None,
    ) -> bytes:
        """Insert a row, its mapping and, if `indexed`, its index item, each unless it is there; the unihash in force.

        What is new is one record. `keys` are those of its taskhash and its outhash, for who has them.
        """
        method = row.method
        taskhash, outhash = keys or (to_key(row.taskhash), to_key(row.outhash))
        found = self.unihash(method, taskhash)
        if self.has_row(method, taskhash, outhash):
            if indexed:
                self.insert_index(method, row.outhash, row.taskhash, row.created)
            return found if found is not None else self.insert_mapping(method, row.taskhash, unihash)
        self._rows[method, taskhash, outhash] = True
        if found is None:
            self._mappings[method, taskhash] = unihash
        kind = records.ROW
        if indexed and not self.is_indexed(method, outhash, taskhash):
            self._index.setdefault((method, outhash), {})[taskhash] = True
            kind = records.REPORT
        mapping = unihash.hex() if found is None else None
        self.records.append((kind, *row, siginfo, mapping, self.current_mark()))
        return unihash if found is None else found

    def replace_row(self, row: RowFields, siginfo: int) -> None:
        """Store a row, in the place of one of the same hashes, without a mapping."""
        self._rows[row.method, to_key(row.taskhash), to_key(row.outhash)] = True
        self.records.append((records.ROW, *row, siginfo, None, self.current_mark()))

    def insert_index(self, method: str, outhash: str, taskhash: str, created: int) -> None:
        """Insert an index item unless it is there."""
        place = (method, to_key(outhash), to_key(taskhash))
        if not self.is_indexed(*place):
            self._index.setdefault(place[:2], {})[place[2]] = True
            self.records.append((records.IDX, method, outhash, taskhash, created))

    def delete_mappings(self, method: str, taskhashes: Iterable[Key]) -> int:
        """Delete mappings; how many there were."""
        gone = [taskhash for taskhash in taskhashes if self.unihash(method, taskhash) is not None]
        if gone:
            self._mappings.update(((method, taskhash), None) for taskhash in gone)
            self.records.append((records.UNMAP, method, [to_text(taskhash) for taskhash in gone]))
        return len(gone)

    def delete_rows(self, method: str, pairs: Iterable[tuple[str, str]], *, unused: bool = False) -> int:
        """Delete the rows of these (taskhash, outhash); how many there were.

        `unused`: only those whose taskhash has no mapping; a report may have come since they were selected.
        """
        if unused:
            pairs = [pair for pair in pairs if self.unihash(method, to_key(pair[0])) is None]
        gone = [pair for pair in pairs if self.has_row(method, to_key(pair[0]), to_key(pair[1]))]
        if gone:
            self._rows.update(((method, to_key(taskhash), to_key(outhash)), False) for taskhash, outhash in gone)
            self.records.append((records.UNROW, method, gone))
        return len(gone)

    def retime_index(self, method: str, outhash: str, taskhash: str, created: int) -> None:
        """Give an index item another time."""
        self.delete_index(method, [(outhash, taskhash)])
        self.insert_index(method, outhash, taskhash, created)

    def delete_index(self, method: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Delete the index items of these (outhash, taskhash)."""
        gone = [pair for pair in pairs if self.is_indexed(method, to_key(pair[0]), to_key(pair[1]))]
        if gone:
            for outhash, taskhash in gone:
                self._index.setdefault((method, to_key(outhash)), {})[to_key(taskhash)] = False
            self.records.append((records.UNIDX, method, gone))

    def set_mark(self, mark: str, method: str, taskhashes: Iterable[Key]) -> int:
        """Set the mark on mappings; how many there were."""
        found = [to_text(taskhash) for taskhash in taskhashes if self.unihash(method, taskhash) is not None]
        if found:
            last = self.records[-1] if self.records else ()
            if last[:3] == (records.MARK, mark, method):
                last[3].extend(found)
            else:
                self.records.append((records.MARK, mark, method, found))
        return len(found)

    def set_entry(self, kind: str, name: str, value: Any) -> None:
        """Set a user or a setting; None deletes it."""
        if (kind, name) == (CONFIG, GC_MARK):
            if self.current_mark() == (value or ""):
                return
            self._mark = value or ""
        self.records.append((records.SET, kind, name, value))
