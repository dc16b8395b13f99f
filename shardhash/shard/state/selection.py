"""Selection: which mappings and rows of a table answer to conditions, a slice at a time.

Conditions are column to value, ANDed; a table takes those that are columns of its own, and one with none left
selects nothing (PROTOCOL, "remove, exactly"). Every generator yields often, also with nothing found, so that a
caller can let lookups in between; the table may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, compress
from typing import Any, TypeAlias

from shardhash.base.timestamps import to_iso
from shardhash.shard.state import small_sets
from shardhash.shard.state.key_copies import Keys
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.packing import row_name
from shardhash.shard.state.table import Row, Table
from shardhash.wire.hashes import Key, join_digests, split_digests, to_key, to_text
from shardhash.wire.rows import COLUMNS, DETAILS, MAPPING_CONDITIONS, ROW_CONDITIONS, SIGINFO, Columns, Where

ReadSiginfo: TypeAlias = Callable[[int], Any]
"""The outhash_siginfo of a siginfo reference; None for 0. Or what stands for it until it is read."""
SiginfoIs: TypeAlias = Callable[[int, str], bool]
"""Whether the outhash_siginfo of a reference is this."""

SLICE = 250
"""Mappings looked at between one yield and the next, which one commit may then change; 0.3 ms, or 2 of those that
nobody looked at for long."""
ROW_SLICE = 200
"""The same of taskhashes whose rows are looked at, which lie in more places; 0.2 ms, or 3."""
ROWS = 500
"""Rows looked at between one yield and the next: 1 ms. To delete them takes 3 ms, and 3 more once that is durable."""
TEXTS = 20
"""Rows whose texts are read from the disk between one yield and the next; 2 ms."""
_DETAIL_POSITIONS = {name: position for position, name in enumerate(DETAILS)}


def columns(method: str, taskhash: Key, row: Row, read_siginfo: ReadSiginfo) -> Columns:
    """An outhash row as clients see it, `created` as ISO 8601 in UTC."""
    values = (
        method,
        to_text(taskhash),
        to_text(row.outhash),
        to_iso(row.created),
        *row.details,
        read_siginfo(row.siginfo),
    )
    return dict(zip(COLUMNS, values, strict=True))


def joined(table: Table, method: str, taskhash: Key, found: Columns) -> Columns:
    """The same row joined with its mapping, which there must be."""
    unihash = table.methods[method].mappings[taskhash]
    return found | {"unihash": unihash.hex(), "gc_mark": table.mark(method, taskhash)}


def oldest_row(table: Table, method: str, taskhash: Key) -> Row | None:
    """The oldest row of a taskhash, which may have a hundred thousand."""
    part = table.methods.get(method)
    item = None if part is None else next(iter(small_sets.iterate(part.rows.get(taskhash))), None)
    return None if item is None else table.unpack_row(item)


def select_mappings(table: Table, where: Where) -> Iterator[tuple[str, list[Key]]]:
    """(method, taskhashes) of the mappings that match."""
    conditions = {name: value for name, value in where.items() if name in MAPPING_CONDITIONS}
    if not conditions:
        return
    for method, part in _methods(table, conditions):
        copied = yield from _mapping_keys(table, method, part, conditions)
        for keys in copied.slices(SLICE):
            yield method, [key for key in keys if _mapping_matches(part, key, conditions)]


def names_mappings(where: Where) -> bool:
    """Whether conditions name their mappings, by columns that a transaction does not change under way."""
    return ("unihash" in where or "taskhash" in where) and "gc_mark" not in where


def find_named(table: Table, wheres: Sequence[Where]) -> Iterable[list[tuple[str, list[Key]]]]:
    """For each of the conditions, which name their mappings, (method, taskhashes) of those that match.

    Conditions of nothing but a unihash, as a sstate cache is marked, cost 0.3 us each where there is no such mapping,
    which is so on all shards but a few; others 1 us.
    """
    unihashes = [where["unihash"] for where in wheres if len(where) == 1 and "unihash" in where]
    digests = join_digests(unihashes) if len(unihashes) == len(wheres) else None
    if digests is None:
        return [_find_one(table, where) for where in wheres]
    found: list[list[tuple[str, list[Key]]]] = [[] for _ in wheres]
    for method, part in table.scanned.items():
        for position, unihash in compress(enumerate(split_digests(digests)), part.held(digests)):
            found[position].append((method, part.holders(unihash)))
    for position, unihash in enumerate(split_digests(digests)) if table.rare else ():
        for method in table.rare.methods(unihash):
            found[position].append((method, table.methods[method].holders(unihash)))
    return found


def _find_one(table: Table, where: Where) -> list[tuple[str, list[Key]]]:
    found = []
    unihash = to_key(where["unihash"]) if "unihash" in where else None
    taskhash = to_key(where["taskhash"]) if "taskhash" in where else None
    for method, part in _methods(table, where):
        if unihash is None:
            keys = [taskhash] if taskhash in part.mappings else []
        else:
            keys = part.holders(unihash)
            if taskhash is not None:
                keys = [taskhash] if taskhash in keys else []
        if keys:
            found.append((method, keys))
    return found


def select_unmarked(table: Table, mark: str) -> Iterator[tuple[str, list[Key]]]:
    """(method, taskhashes) of the mappings that do not carry the mark."""
    for method, part in list(table.methods.items()):
        copied = yield from table.copies.make(_nothing(method), part.mappings)
        for keys in copied.slices(SLICE):
            yield method, [key for key in keys if part.marks.get(key, "") != mark]


def select_rows(table: Table, where: Where, siginfo_is: SiginfoIs) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(method, [(taskhash, outhash)]) of the rows that match."""
    conditions = {name: value for name, value in where.items() if name in ROW_CONDITIONS}
    if not conditions:
        return
    others = {name: value for name, value in conditions.items() if name not in ("method", "taskhash", SIGINFO)}
    siginfo = conditions.get(SIGINFO)
    for number, (method, part) in enumerate(_methods(table, conditions), 1):
        if number % SLICE == 0:
            yield method, []
        if "taskhash" in conditions:
            keys = Keys([[to_key(conditions["taskhash"])]])
        else:
            keys = yield from table.copies.make(_no_rows(method), part.rows)
        for some in _row_slices(table, part, keys):
            matching = [(key, row) for key, row in some if _row_matches(row, others)]
            if siginfo is None:
                yield method, _named(matching)
                continue
            for start in range(0, len(matching), TEXTS):
                texts = matching[start : start + TEXTS]
                # One that went meanwhile has no text any more, perhaps.
                there = [(key, row) for key, row in texts if table.row(method, key, row.outhash) == row]
                yield method, _named([(key, row) for key, row in there if siginfo_is(row.siginfo, siginfo)])
            yield method, []


def _named(rows: list[tuple[Key, Row]]) -> list[tuple[str, str]]:
    return [(to_text(key), to_text(row.outhash)) for key, row in rows]


def select_unused(table: Table, before: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The rows created before this time (microseconds) whose taskhash has no mapping."""
    for number, (method, part) in enumerate(list(table.methods.items()), 1):
        if number % SLICE == 0:
            yield method, []
        keys = yield from table.copies.make(_no_rows(method), part.unmapped)
        for some in _row_slices(table, part, keys):
            unused = ((key, row) for key, row in some if row.created < before and key not in part.mappings)
            yield method, [(to_text(key), to_text(row.outhash)) for key, row in unused]


def _methods(table: Table, conditions: Where) -> list[tuple[str, MethodTable]]:
    if "method" in conditions:
        part = table.methods.get(conditions["method"])
        return [] if part is None else [(conditions["method"], part)]
    return table.methods_with(to_key(conditions["unihash"])) if "unihash" in conditions else list(table.methods.items())


def _mapping_keys(
    table: Table, method: str, part: MethodTable, conditions: Where
) -> Generator[tuple[str, list[Key]], None, Keys]:
    if "taskhash" in conditions:
        return Keys([[to_key(conditions["taskhash"])]])
    if "unihash" in conditions:
        return Keys([part.holders(to_key(conditions["unihash"]))])
    return (yield from table.copies.make(_nothing(method), part.mappings))


def _nothing(method: str) -> tuple[str, list[Key]]:
    return method, []


def _no_rows(method: str) -> tuple[str, list[tuple[str, str]]]:
    return method, []


def _mapping_matches(part: MethodTable, key: Key, conditions: Where) -> bool:
    unihash = part.mappings.get(key)
    if unihash is None or conditions.get("unihash", unihash.hex()) != unihash.hex():
        return False
    return "gc_mark" not in conditions or part.marks.get(key, "") == conditions["gc_mark"]


def _row_matches(row: Row, conditions: Where) -> bool:
    return all(_column(row, name) == value for name, value in conditions.items())


def _column(row: Row, name: str) -> str | None:
    return to_text(row.outhash) if name == "outhash" else row.details[_DETAIL_POSITIONS[name]]


def _row_slices(table: Table, part: MethodTable, keys: Keys) -> Iterator[list[tuple[Key, Row]]]:
    """The rows of these taskhashes, at most ROWS a list, and a list at least every ROW_SLICE taskhashes.

    One taskhash may have a hundred thousand rows. Of one that is cut, rows that go or change meanwhile are left out.
    """
    found: list[tuple[Key, Row]] = []
    for position, key in enumerate(chain.from_iterable(keys.slices(ROW_SLICE)), 1):
        cut = False
        for item in tuple(small_sets.iterate(part.rows.get(key))):  # 10 ns a row; they may change at each yield
            if cut and small_sets.find(part.rows.get(key), row_name(item), row_name) != item:
                continue
            found.append((key, table.unpack_row(item)))
            if len(found) >= ROWS:
                yield found
                found, cut = [], True
        if position % ROW_SLICE == 0:
            yield found
            found = []
    if found:
        yield found
