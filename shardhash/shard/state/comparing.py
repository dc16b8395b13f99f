"""Comparing two tables: whether what was written is what was read back, at a microsecond for each entry."""

from __future__ import annotations

from shardhash.shard.state import packing, small_sets
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.small_sets import SmallSet
from shardhash.shard.state.table import Table


def same_state(one: Table, other: Table) -> bool:
    """Whether two tables hold the same, siginfo references included, in whatever order they came by it."""
    entries = [{kind: values for kind, values in table.entries.items() if values} for table in (one, other)]
    if entries[0] != entries[1] or one.counts() != other.counts():
        return False
    unknown = len(other.details.by_number)
    renumbered = [other.details.numbers.get(details, unknown) for details in one.details.by_number]
    empty = MethodTable()
    for method in one.methods.keys() | other.methods.keys():
        mine, theirs = one.methods.get(method, empty), other.methods.get(method, empty)
        if mine.mappings != theirs.mappings or mine.marks != theirs.marks or mine.days != theirs.days:
            return False
        if mine.index.keys() != theirs.index.keys() or mine.rows.keys() != theirs.rows.keys():
            return False
        if not all(_same_items(small_set, theirs.index[outhash]) for outhash, small_set in mine.index.items()):
            return False
        if not all(
            _same_rows(small_set, theirs.rows[taskhash], renumbered) for taskhash, small_set in mine.rows.items()
        ):
            return False
    return True


def _same_items(one: SmallSet, other: SmallSet) -> bool:
    return one == other or list(small_sets.iterate(one)) == list(small_sets.iterate(other))


def _same_rows(one: SmallSet, other: SmallSet, renumbered: list[int]) -> bool:
    if isinstance(one, bytes):  # most have one row
        return isinstance(other, bytes) and packing.renumber_row(one, renumbered) == other
    rows = [packing.renumber_row(item, renumbered) for item in small_sets.iterate(one)]
    return sorted(rows) == sorted(small_sets.iterate(other))
