"""The table: the whole state of one shard in memory. Pure: values in, values out; no files, no clock.

For each method it holds a `MethodTable` (method_table.py), and besides, ``entries``: users and settings
(kind -> name -> value).

Memory is what limits a shard, so the items of bags are packed (packing.py); their details number the tuple (owner, PN,
PV, PR, task), which tasks share.

Changes come only through `apply`, one record at a time (records.py), in life as in recovery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import orjson

from shardhash.link.operations import GC_MARK
from shardhash.shard.state import packing, records, small_sets
from shardhash.shard.state.method_table import MethodTable, either
from shardhash.shard.state.packing import pack_item, pack_key, unpack_item
from shardhash.shard.state.records import Record
from shardhash.shard.state.small_sets import Bag, NameOf
from shardhash.wire.batch import Found
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, Key, split_digests, to_key, to_text

Details: TypeAlias = tuple[str | None, str | None, str | None, str | None, str | None]
"""owner, PN, PV, PR, task of a row."""


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
        self.row_count = 0
        self.index_count = 0
        self.mark_counts: Counter[str] = Counter()
        self._details: list[Details] = []
        self._detail_numbers: dict[Details, int] = {}
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
        """The unihash of each taskhash (n * 32 bytes); about 80 ns each with 500,000 mappings."""
        table = self.methods.get(method)
        if table is None:
            return Found(bytes(len(digests)), bytes(len(digests) // DIGEST_SIZE))
        return Found.of(list(map(table.mappings.get, split_digests(digests))))

    def unihash(self, method: str, taskhash: Key) -> bytes | None:
        """The unihash of one taskhash."""
        table = self.methods.get(method)
        return table.mappings.get(taskhash) if table else None

    def exists(self, digests: Buffer) -> bytes:
        """For each unihash a byte: 1 when a mapping of any method has it."""
        status = bytes(len(digests) // DIGEST_SIZE)
        for table in self.methods.values():
            status = either(status, table.held(digests))
        return status

    def mark(self, method: str, taskhash: Key) -> str:
        """The GC mark of a mapping, '' when none."""
        table = self.methods.get(method)
        return table.marks.get(taskhash, "") if table else ""

    def current_mark(self) -> str:
        """The mark that new mappings carry; '' when no collection runs."""
        mark = self.entries.get("config", {}).get(GC_MARK)
        return mark if isinstance(mark, str) else ""

    def row(self, method: str, taskhash: Key, outhash: Key) -> Row | None:
        """One outhash row."""
        table = self.methods.get(method)
        bag = table.rows.get(taskhash) if table else None
        item = small_sets.find(bag, pack_key(outhash), packing.row_name) if bag is not None else None
        return self.unpack_row(item) if item is not None else None

    def rows(self, method: str, taskhash: Key) -> list[Row]:
        """The outhash rows of a taskhash, oldest first."""
        table = self.methods.get(method)
        return [self.unpack_row(item) for item in small_sets.iterate(table.rows.get(taskhash))] if table else []

    def indexed(self, method: str, outhash: Key, taskhash: Key) -> bool:
        """Whether the index of this outhash holds this taskhash."""
        table = self.methods.get(method)
        bag = table.index.get(outhash) if table else None
        return bag is not None and small_sets.find(bag, pack_key(taskhash), packing.item_name) is not None

    def index_time(self, method: str, outhash: Key, taskhash: Key) -> int | None:
        """The time of the index item of this taskhash; None when there is none."""
        table = self.methods.get(method)
        bag = table.index.get(outhash) if table else None
        item = small_sets.find(bag, pack_key(taskhash), packing.item_name) if bag is not None else None
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

    def detail_numbers(self, matches: Callable[[Details], bool]) -> set[int]:
        """The numbers of the details that match, as rows are packed with them."""
        return {number for number, details in enumerate(self._details) if matches(details)}

    def counts(self) -> dict[str, int]:
        """How many mappings, rows, index items, users and config entries it holds."""
        return {
            "mappings": sum(len(table.mappings) for table in self.methods.values()),
            "rows": self.row_count,
            "index": self.index_count,
            "users": len(self.entries.get("user", {})),
            "config": len(self.entries.get("config", {})),
        }

    def siginfo_references(self) -> Iterator[int]:
        """The siginfo references of all rows that have one."""
        for table in self.methods.values():
            for bag in table.rows.values():
                for item in small_sets.iterate(bag):
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
            for taskhash, bag in table.rows.items():
                for item in small_sets.iterate(bag):
                    row = self.unpack_row(item)
                    place = (method, to_text(taskhash), to_text(row.outhash))
                    yield ["row", *place, row.created, row.details, bool(row.siginfo)]
            for outhash, bag in table.index.items():
                for item in small_sets.iterate(bag):
                    yield ["idx", method, to_text(outhash), item.hex()]
        for kind, entries in self.entries.items():
            for name, value in entries.items():
                yield ["set", kind, name, orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()]

    def check(self) -> None:
        """Assert every invariant, one by one; for tests and verify. Raises AssertionError with the place."""
        marks: Counter[str] = Counter()
        rows = index = 0
        for method, table in self.methods.items():
            for taskhash, unihash in table.mappings.items():
                assert len(unihash) == DIGEST_SIZE, (method, taskhash, "unihash size")
                assert taskhash in table.holders(unihash), (method, taskhash, "missing in reverse")
            reversed_count = sum(len(v) if isinstance(v, set) else 1 for v in table.reverse.values())
            others = sum(taskhash != unihash for taskhash, unihash in table.mappings.items())
            assert reversed_count == others, (method, "reverse holds more than mappings")
            assert not any(isinstance(v, set) and len(v) < 2 for v in table.reverse.values()), (method, "small set")
            assert table.unmapped == table.rows.keys() - table.mappings.keys(), (method, "unmapped")
            for taskhash in table.marks:
                assert taskhash in table.mappings, (method, taskhash, "mark without mapping")
            marks.update(table.marks.values())
            for bag in (*table.rows.values(), *table.index.values()):
                items = list(small_sets.iterate(bag))
                assert items, (method, "empty bag")
                assert items == sorted(items), (method, "bag out of order")
            rows += sum(map(small_sets.size, table.rows.values()))
            index += sum(map(small_sets.size, table.index.values()))
        assert (rows, index) == (self.row_count, self.index_count), "counts of rows or index"
        assert marks == +self.mark_counts, "counts of marks"

    # --------------------------------------------------------------------------------------------- changes

    def apply(self, record: Record) -> None:
        """Make a record true. Applying it again changes nothing. KeyError for an unknown kind."""
        self._appliers[record[0]](*record[1:])

    def method(self, method: str) -> MethodTable:
        """The dicts of a method, made when there are none. Those who load a snapshot write to it directly."""
        table = self.methods.get(method)
        if table is None:
            table = self.methods[method] = MethodTable()
        return table

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
        self.set_mapping(self.method(method), to_key(taskhash), bytes.fromhex(unihash), mark)

    def _apply_unmap(self, method: str, taskhashes: Iterable[str]) -> None:
        table = self.method(method)
        for taskhash in map(to_key, taskhashes):
            unihash = table.mappings.pop(taskhash, None)
            if unihash is not None:
                table.unlink(taskhash, unihash)
                self._set_mark(table, taskhash, "")
                if taskhash in table.rows:
                    table.unmapped.add(taskhash)

    def _apply_unrow(self, method: str, pairs: Iterable[tuple[str, str]]) -> None:
        table = self.method(method)
        for text, outhash in pairs:
            taskhash = to_key(text)
            self.row_count -= _discard(table.rows, taskhash, pack_key(to_key(outhash)), packing.row_name)
            if taskhash not in table.rows:
                table.unmapped.discard(taskhash)

    def _apply_mark(self, mark: str, method: str, taskhashes: Iterable[str]) -> None:
        table = self.method(method)
        for taskhash in map(to_key, taskhashes):
            if taskhash in table.mappings:
                self._set_mark(table, taskhash, mark)

    def _apply_idx(self, method: str, outhash: str, taskhash: str, created: int) -> None:
        self.put_index(self.method(method), to_key(outhash), to_key(taskhash), created)

    def _apply_unidx(self, method: str, pairs: Iterable[tuple[str, str]]) -> None:
        table = self.method(method)
        for outhash, taskhash in pairs:
            self.index_count -= _discard(table.index, to_key(outhash), pack_key(to_key(taskhash)), packing.item_name)

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
            if old is not None:
                table.unlink(taskhash, old)
            elif table.unmapped:
                table.unmapped.discard(taskhash)
            if unihash == taskhash:
                table.mappings[taskhash] = taskhash  # one object
            else:
                unihash = table.mappings[taskhash] = table.shared(unihash)
                table.link(taskhash, unihash)
        if mark or table.marks:
            self._set_mark(table, taskhash, mark)

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
        number = self._detail_numbers.get(details)
        if number is None:
            number = self._detail_numbers[details] = len(self._details)
            self._details.append(details)
        item = packing.pack_row(created, number, outhash, siginfo)
        self.row_count += _put(table.rows, taskhash, item, packing.row_name)
        if taskhash not in table.mappings:
            table.unmapped.add(taskhash)

    def put_index(self, table: MethodTable, outhash: Key, taskhash: Key, created: int) -> None:
        """The index of outhash holds taskhash."""
        self.index_count += _put(table.index, outhash, pack_item(created, taskhash), packing.item_name)

    def details(self) -> list[Details]:
        """What tasks share, by the number that rows have for it."""
        return self._details

    def unpack_row(self, item: bytes) -> Row:
        """The row that an item of ``rows`` stands for."""
        created, number, outhash, siginfo = packing.unpack_row(item)
        return Row(created, self._details[number], siginfo, outhash)


def _put(where: dict[Key, Bag], key: Key, item: bytes, name_of: NameOf) -> int:
    """Put an item into the bag under a key; by how many the count grew (0 when it took an equal's place)."""
    bag = where.get(key)
    if bag is None:
        where[key] = item
        return 1
    before = small_sets.size(bag)
    bag = where[key] = small_sets.put(bag, item, name_of)
    return small_sets.size(bag) - before


def _discard(where: dict[Key, Bag], key: Key, name: bytes, name_of: NameOf) -> int:
    """Drop an item from the bag under a key; by how many the count fell."""
    bag = where.get(key)
    if bag is None:
        return 0
    before = small_sets.size(bag)
    left = small_sets.discard(bag, name, name_of)
    if left is None:
        del where[key]
        return before
    where[key] = left
    return before - small_sets.size(left)
