"""The table: the whole state of one shard in memory. Pure: values in, values out; no files, no clock.

For each method it holds a `MethodTable` (method_table.py), and besides, ``entries``: users and settings
(kind -> name -> value).

Memory is what limits a shard, so the items of small sets are packed (packing.py). Their details number the tuple
(owner, PN, PV, PR, task), which tasks share (details.py). A method of which nothing is left goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

import orjson

from shardhash.base.entry_kinds import CONFIG, GC_MARK, USER
from shardhash.shard.state import packing, records, small_sets
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.checking import check
from shardhash.shard.state.details import Details, SharedDetails
from shardhash.shard.state.key_copies import Copies
from shardhash.shard.state.method_table import MethodTable, either
from shardhash.shard.state.packing import pack_item, pack_key, unpack_item
from shardhash.shard.state.rare_methods import RareMethods
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.records import Record
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, Key, to_key, to_text

__all__ = ("Candidate", "Details", "Row", "Table")

MOST_SCANNED = 4
"""Methods that a question by unihash looks through one by one. Builds use one or two; whoever stores more does not make
checks of existence, 65,536 in a message, take longer and longer."""


class Row(NamedTuple):
    """An outhash row without method and taskhash, which its place in the table tells."""

    created: int
    details: Details
    siginfo: int
    outhash: Key


class Candidate(NamedTuple):
    """A taskhash in the index of an outhash, and when its row was created."""

    created: int
    taskhash: Key


class Table:
    """The state of one shard."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodTable] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.mapping_count = 0
        self.asked_from = 0
        """The day from which on it is known what was asked for; until then everything was. 0 if that is not known."""
        self.gone: dict[str, set[Key]] = {}
        """By method, what was asked for and removed since somebody emptied this: a collection puts it back."""
        self.unmap_count = 0  # times that mappings were taken away: while it stays, what was mapped is
        self.row_count = self.index_count = 0
        self.mark_counts: Counter[str] = Counter()
        self.details = SharedDetails()
        self.copies = Copies()
        self.rare = RareMethods()
        self.scanned: dict[str, MethodTable] = {}
        """The methods that are not rare."""
        self._appliers: dict[str, Callable[..., None]] = {
            records.ROW: self._apply_row,
            records.REPORT: self._apply_report,
            records.MAP: self._apply_map,
            records.UNMAP: self._apply_unmap,
            records.UNROW: self._apply_unrow,
            records.MARK: self._apply_mark,
            records.IDX: self._apply_idx,
            records.UNIDX: self._apply_unidx,
            records.SET: self._apply_set,
        }

    # ------------------------------------------------------------------------------------------- questions

    def lookup(self, method: str, digests: Buffer) -> Found:
        """The unihash of each taskhash (n * 32 bytes)."""
        table = self.methods.get(method)
        if table is None:
            return Found(bytes(len(digests)), bytes(len(digests) // DIGEST_SIZE))
        return table.lookup(digests)

    def unihash(self, method: str, taskhash: Key) -> bytes | None:
        """The unihash of one taskhash."""
        table = self.methods.get(method)
        return table.mappings.get(taskhash) if table else None

    def exists(self, digests: Buffer) -> bytes:
        """For each unihash a byte: 1 when a mapping of any method has it."""
        status = bytes(len(digests) // DIGEST_SIZE)
        for table in self.scanned.values():
            status = either(status, table.held(digests))
        return either(status, self.rare.held(digests)) if self.rare else status

    def methods_with(self, unihash: Key) -> list[tuple[str, MethodTable]]:
        """The methods in which some taskhash may have a unihash; all others have none that does."""
        return [*self.scanned.items(), *((method, self.methods[method]) for method in self.rare.methods(unihash))]

    def mark(self, method: str, taskhash: Key) -> str:
        """The GC mark of a mapping, '' when none."""
        table = self.methods.get(method)
        return table.marks.get(taskhash, "") if table else ""

    def current_mark(self) -> str:
        """The mark that new mappings carry; '' when no collection runs."""
        mark = self.entries.get(CONFIG, {}).get(GC_MARK)
        return mark if isinstance(mark, str) else ""

    def last_asked(self, method: str, taskhash: Key) -> int:
        """The day on which a mapping was last asked for, as far as that is noted; 0 when it was not."""
        table = self.methods.get(method)
        return table.days.day(taskhash) if table else 0

    def last_used(self, table: MethodTable, taskhash: Key) -> int:
        """The last day on which a mapping was asked for or reported, or may have been: what is not known was."""
        newest = [packing.unpack_row(item)[0] for item in small_sets.newest(table.rows.get(taskhash), 1)]
        return max(table.days.day(taskhash), self.asked_from, day_of(sum(newest)))

    def row(self, method: str, taskhash: Key, outhash: Key) -> Row | None:
        """One outhash row."""
        table = self.methods.get(method)
        small_set = table.rows.get(taskhash) if table else None
        item = small_sets.find(small_set, pack_key(outhash), packing.row_name) if small_set is not None else None
        return self.unpack_row(item) if item is not None else None

    def rows(self, method: str, taskhash: Key) -> list[Row]:
        """The outhash rows of a taskhash, oldest first."""
        table = self.methods.get(method)
        return [self.unpack_row(item) for item in small_sets.iterate(table.rows.get(taskhash))] if table else []

    def indexed(self, method: str, outhash: Key, taskhash: Key) -> bool:
        """Whether the index of this outhash holds this taskhash."""
        table = self.methods.get(method)
        small_set = table.index.get(outhash) if table else None
        return small_set is not None and small_sets.find(small_set, pack_key(taskhash), packing.item_name) is not None

    def index_time(self, method: str, outhash: Key, taskhash: Key) -> int | None:
        """The time of the index item of this taskhash; None when there is none."""
        table = self.methods.get(method)
        small_set = table.index.get(outhash) if table else None
        item = small_sets.find(small_set, pack_key(taskhash), packing.item_name) if small_set is not None else None
        return unpack_item(item)[0] if item is not None else None

    def has_index(self, method: str, outhash: Key) -> bool:
        """Whether the index of this outhash holds any taskhash."""
        table = self.methods.get(method)
        return table is not None and outhash in table.index

    def candidates(self, method: str, outhash: Key, limit: int, start: bytes = b"") -> list[Candidate]:
        """Up to `limit` taskhashes of an outhash, oldest first, above the item `start`."""
        table = self.methods.get(method)
        if table is None:
            return []
        items = small_sets.after(table.index.get(outhash), start)
        return [Candidate(*unpack_item(item)) for item in islice(items, limit)]

    def counts(self) -> dict[str, int]:
        """How many mappings, rows, index items, users and config entries it holds."""
        return {
            "mappings": self.mapping_count,
            "rows": self.row_count,
            "index": self.index_count,
            "users": len(self.entries.get(USER, {})),
            "config": len(self.entries.get(CONFIG, {})),
        }

    def siginfo_references(self) -> Iterator[int]:
        """The siginfo references of all rows that have one."""
        for table in self.methods.values():
            for small_set in table.rows.values():
                for item in small_sets.iterate(small_set):
                    if reference := packing.siginfo_of(item):
                        yield reference

    def digest(self) -> str:
        """A digest of the whole state that does not depend on any order; siginfo counts as present or not."""
        total = 0
        for fact in self._facts():
            total += int.from_bytes(blake2b(orjson.dumps(fact), digest_size=16).digest())
        return f"{total % (1 << 128):032x}"

    def _facts(self) -> Iterator[list[Any]]:
        for method, table in self.methods.items():
            for taskhash, unihash in table.mappings.items():
                yield ["map", method, to_text(taskhash), unihash.hex(), table.marks.get(taskhash, "")]
            for taskhash, small_set in table.rows.items():
                for item in small_sets.iterate(small_set):
                    row = self.unpack_row(item)
                    place = (method, to_text(taskhash), to_text(row.outhash))
                    yield ["row", *place, row.created, row.details, bool(row.siginfo)]
            for outhash, small_set in table.index.items():
                for item in small_sets.iterate(small_set):
                    yield ["idx", method, to_text(outhash), item.hex()]
        for kind, entries in self.entries.items():
            for name, value in entries.items():
                yield ["set", kind, name, orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()]

    def check(self) -> None:
        """Assert every invariant, one by one; for tests and verify. Raises AssertionError with the place."""
        check(self)

    # --------------------------------------------------------------------------------------------- changes

    def apply(self, record: Record) -> None:
        """Make a record true. Applying it again changes nothing. KeyError for an unknown kind."""
        self._appliers[record[0]](*record[1:])

    def method(self, method: str) -> MethodTable:
        """The dicts of a method, made when there are none. Those who load a snapshot write to it directly."""
        table = self.methods.get(method)
        if table is None:
            table = self.methods[method] = MethodTable()
            if len(self.scanned) < MOST_SCANNED:
                self.scanned[method] = table
            else:
                table.rare = method
        return table

    def _drop_if_empty(self, method: str, table: MethodTable) -> None:
        """Forget a method of which nothing is left. Whoever walks over its dicts just finds no more in them."""
        if not (table.mappings or table.rows or table.index) and self.methods.get(method) is table:
            del self.methods[method]
            self.scanned.pop(method, None)

    def _apply_row(  # the fields of one record
        self,
        method: str,
        taskhash_text: str,
        outhash_text: str,
        created: int,
        owner: str | None,
        pn: str | None,
        pv: str | None,
        pr: str | None,
        task: str | None,
        siginfo: int,
        unihash: str | None,
        mark: str,
        *,
        indexed: bool = False,
    ) -> None:
        table = self.method(method)
        taskhash, outhash = to_key(taskhash_text), to_key(outhash_text)
        if unihash is not None:
            self.set_mapping(table, taskhash, bytes.fromhex(unihash), mark)
        self.put_row(table, taskhash, outhash, created, (owner, pn, pv, pr, task), siginfo)
        if indexed:
            self.put_index(table, outhash, taskhash, created)

    def _apply_report(self, *fields: Any) -> None:
        self._apply_row(*fields, indexed=True)

    def _apply_map(self, method: str, taskhash: str, unihash: str, mark: str) -> None:
        table, key = self.method(method), to_key(taskhash)
        self.set_mapping(table, key, bytes.fromhex(unihash), mark)
        table.ask(key)  # whoever had it stored asked for it; no row says when

    def _apply_unmap(self, method: str, taskhashes: Iterable[str]) -> None:
        table = self.methods.get(method)
        if table is None:
            return
        self.unmap_count += 1
        keys = list(map(to_key, taskhashes))
        table.days.forget(keys)
        for taskhash in keys:
            unihash = table.mappings.pop(taskhash, None)
            if unihash is not None:
                self.mapping_count -= 1
                if table.forget_asked(taskhash) or unihash in table.asked_unihashes or unihash in self.rare.asked:
                    self.gone.setdefault(method, set()).add(taskhash)
                self._unlink(table, taskhash, unihash)
                self._set_mark(table, taskhash, "")
                if taskhash in table.rows:
                    table.unmapped.add(taskhash)
        self._drop_if_empty(method, table)

    def _apply_unrow(self, method: str, pairs: Iterable[tuple[str, str]]) -> None:
        table = self.methods.get(method)
        if table is None:
            return
        for text, outhash in pairs:
            taskhash = to_key(text)
            gone = small_sets.discard_from(table.rows, taskhash, pack_key(to_key(outhash)), packing.row_name)
            if gone is not None:
                self.row_count -= 1
                if table.recent is not None:
                    self._forget_recent(table.recent, table, taskhash, packing.details_of(gone))
                self.details.give_back(packing.details_of(gone))
            if taskhash not in table.rows:
                table.unmapped.discard(taskhash)
        self._drop_if_empty(method, table)

    def _forget_recent(self, recent: RecentTasks, table: MethodTable, taskhash: Key, number: int) -> None:
        left = map(packing.details_of, small_sets.iterate(table.rows.get(taskhash)))
        if number not in left:
            recent.forget(taskhash, self.details.by_number[number])

    def _apply_mark(self, mark: str, method: str, taskhashes: Iterable[str]) -> None:
        table = self.methods.get(method)
        if table is None:
            return
        for taskhash in map(to_key, taskhashes):
            if taskhash in table.mappings:
                self._set_mark(table, taskhash, mark)

    def _apply_idx(self, method: str, outhash: str, taskhash: str, created: int) -> None:
        self.put_index(self.method(method), to_key(outhash), to_key(taskhash), created)

    def _apply_unidx(self, method: str, pairs: Iterable[tuple[str, str]]) -> None:
        table = self.methods.get(method)
        if table is None:
            return
        for outhash, taskhash in pairs:
            gone = small_sets.discard_from(table.index, to_key(outhash), pack_key(to_key(taskhash)), packing.item_name)
            self.index_count -= gone is not None
        self._drop_if_empty(method, table)

    def _apply_set(self, kind: str, name: str, value: Any) -> None:
        entries = self.entries.setdefault(kind, {})
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value

    def set_mapping(self, table: MethodTable, taskhash: Key, unihash: bytes, mark: str) -> None:
        """The mapping of taskhash is unihash with this mark."""
        old = table.mappings.get(taskhash)
        if old != unihash:
            asked = old is not None and table.forget_asked(taskhash)
            if old is not None:
                del table.mappings[taskhash]
                self._unlink(table, taskhash, old)
            else:
                self.mapping_count += 1
                table.unmapped.discard(taskhash)
            if unihash == taskhash:
                table.mappings[taskhash] = taskhash  # one object
            else:
                unihash = table.mappings[taskhash] = table.shared(unihash)
                table.link(taskhash, unihash)
            if asked:
                table.ask(taskhash)
            if table.rare is not None:
                self.rare.add(unihash, table.rare)
        if mark or table.marks:
            self._set_mark(table, taskhash, mark)

    def _unlink(self, table: MethodTable, taskhash: Key, unihash: bytes) -> None:
        """A mapping is gone from ``mappings``: forget the way back."""
        table.unlink(taskhash, unihash)
        if table.rare is not None and not table.holders(unihash):
            self.rare.discard(unihash, table.rare)

    def _set_mark(self, table: MethodTable, taskhash: Key, mark: str) -> None:
        old = table.marks.pop(taskhash, "")
        if old:
            self.mark_counts[old] -= 1
        if mark:
            table.marks[taskhash] = mark
            self.mark_counts[mark] += 1

    def put_row(
        self, table: MethodTable, taskhash: Key, outhash: Key, created: int, details: Details, siginfo: int
    ) -> None:
        """The row of (taskhash, outhash) is this."""
        item = packing.pack_row(created, self.details.take(details), outhash, siginfo)
        replaced = small_sets.put_into(table.rows, taskhash, item, packing.row_name)
        if replaced is None:
            self.row_count += 1
        else:
            self.details.give_back(packing.details_of(replaced))
        if taskhash not in table.mappings:
            table.unmapped.add(taskhash)
        if table.recent is not None:
            table.recent.note(taskhash, created, details)

    def put_index(self, table: MethodTable, outhash: Key, taskhash: Key, created: int) -> None:
        """The index of outhash holds taskhash."""
        self.index_count += (
            small_sets.put_into(table.index, outhash, pack_item(created, taskhash), packing.item_name) is None
        )

    def unpack_row(self, item: bytes) -> Row:
        """The row that an item of ``rows`` stands for; with the details of others, or none, if it is not there now."""
        created, number, outhash, siginfo = packing.unpack_row(item)
        return Row(created, self.details.by_number[number], siginfo, outhash)
