"""Checking: every invariant of a table, for tests and `shardhash verify`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from shardhash.shard.state import packing, small_sets
from shardhash.shard.state.method_table import MethodTable
from shardhash.wire.hashes import DIGEST_SIZE

if TYPE_CHECKING:
    from shardhash.shard.state.table import Table


def check(table: Table) -> None:
    """Assert the invariants, one by one. Raises AssertionError with the place."""
    mappings = rows = index = 0
    marks: Counter[str] = Counter()
    details: Counter[int] = Counter()
    rare: dict[bytes, set[str]] = {}
    for method, part in table.methods.items():
        _check_method(table, method, part)
        marks.update(part.marks.values())
        details.update(
            packing.details_of(item) for small_set in part.rows.values() for item in small_sets.iterate(small_set)
        )
        mappings += len(part.mappings)
        rows += sum(map(small_sets.size, part.rows.values()))
        index += sum(map(small_sets.size, part.index.values()))
        if part.rare is not None:
            for unihash in part.mappings.values():
                rare.setdefault(unihash, set()).add(method)
    assert (mappings, rows, index) == (table.mapping_count, table.row_count, table.index_count), "counts"
    assert marks == +table.mark_counts, "counts of marks"
    assert details == table.details.uses(), "uses of details"
    assert {unihash: set(table.rare.methods(unihash)) for unihash in table.rare.by_unihash} == rare, "rare methods"


def _check_method(table: Table, method: str, part: MethodTable) -> None:
    assert part.mappings or part.rows or part.index, (method, "nothing is left of it")
    assert part.rare == (None if method in table.scanned else method), (method, "rare or scanned")
    for taskhash, unihash in part.mappings.items():
        assert len(unihash) == DIGEST_SIZE, (method, taskhash, "unihash size")
        assert taskhash in part.holders(unihash), (method, taskhash, "missing in reverse")
    reversed_count = sum(len(v) if isinstance(v, set) else 1 for v in part.reverse.values())
    others = sum(taskhash != unihash for taskhash, unihash in part.mappings.items())
    assert reversed_count == others, (method, "reverse holds more than mappings")
    assert not any(isinstance(v, set) and len(v) < 2 for v in part.reverse.values()), (method, "small set")
    assert part.unmapped == part.rows.keys() - part.mappings.keys(), (method, "unmapped")
    for taskhash, unihash in part.asked.items():
        assert part.mappings.get(taskhash) == unihash, (method, taskhash, "asked for, and not its mapping")
    assert 0 <= part.noted <= len(part.asked), (method, "noted")
    for taskhash in part.marks:
        assert taskhash in part.mappings, (method, taskhash, "mark without mapping")
    for small_set in (*part.rows.values(), *part.index.values()):
        items = list(small_sets.iterate(small_set))
        assert items, (method, "empty small_set")
        assert items == sorted(items), (method, "small_set out of order")
