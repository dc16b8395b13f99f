"""A transaction decides on the table as it will be: deciding together is deciding one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shardhash.base.entry_kinds import GC_MARK
from shardhash.shard.state.table import Table
from shardhash.shard.state.transaction import RowFields, Transaction
from shardhash.wire.hashes import to_key

HASHES = [f"{n:064x}" for n in range(3)] + ["short"]
UNIHASHES = [bytes([n]) * 32 for n in (7, 8)]

hashes = st.sampled_from(HASHES)
unihashes = st.sampled_from(UNIHASHES)
pairs = st.lists(st.tuples(hashes, hashes), max_size=3, unique=True)
some_keys = st.lists(hashes.map(to_key), max_size=3, unique=True)


def row(taskhash: str, outhash: str) -> RowFields:
    return RowFields("m", taskhash, outhash, 1, None, None, None, None, None)


Step = Callable[[Transaction], Any]
step = st.one_of(
    st.builds(lambda t, u: lambda tx: tx.insert_mapping("m", t, u), hashes, unihashes),
    st.builds(
        lambda t, o, u, i: lambda tx: tx.insert_row(row(t, o), 0, u, indexed=i),
        hashes,
        hashes,
        unihashes,
        st.booleans(),
    ),
    st.builds(lambda o, t: lambda tx: tx.insert_index("m", o, t, 1), hashes, hashes),
    st.builds(lambda some: lambda tx: tx.delete_mappings("m", some), some_keys),
    st.builds(lambda some: lambda tx: tx.delete_rows("m", some), pairs),
    st.builds(lambda some: lambda tx: tx.delete_index("m", some), pairs),
    st.builds(lambda mark, some: lambda tx: tx.set_mark(mark, "m", some), st.sampled_from("AB"), some_keys),
    st.builds(lambda mark: lambda tx: tx.set_entry("config", GC_MARK, mark), st.sampled_from(["A", "B", None])),
    st.builds(lambda value: lambda tx: tx.set_entry("user", "u", value), st.sampled_from([None, {"a": 1}])),
)


def run(groups: list[list[Step]]) -> tuple[list[Any], Table]:
    table = Table()
    results = []
    for group in groups:
        transaction = Transaction(table)
        results += [one(transaction) for one in group]
        for record in transaction.records:
            table.apply(record)
        table.check()
    return results, table


@given(st.lists(st.lists(step, max_size=8), max_size=5))
def test_a_group_is_as_its_steps_one_by_one(groups: list[list[Step]]) -> None:
    together, table = run(groups)
    apart, other = run([[one] for group in groups for one in group])
    assert together == apart
    assert table.digest() == other.digest()


def test_a_mapping_is_written_once_and_carries_the_current_mark() -> None:
    transaction = Transaction(Table())
    transaction.set_entry("config", GC_MARK, "A")
    assert transaction.insert_mapping("m", HASHES[0], UNIHASHES[0]) == UNIHASHES[0]
    assert transaction.insert_mapping("m", HASHES[0], UNIHASHES[1]) == UNIHASHES[0]
    assert transaction.records[1:] == [("map", "m", HASHES[0], UNIHASHES[0].hex(), "A")]


def test_a_report_is_one_record() -> None:
    transaction = Transaction(Table())
    assert transaction.insert_row(row(HASHES[0], HASHES[1]), 5, UNIHASHES[0]) == UNIHASHES[0]
    assert transaction.insert_row(row(HASHES[0], HASHES[1]), 6, UNIHASHES[1]) == UNIHASHES[0]
    assert len(transaction.records) == 1


def test_a_report_whose_mapping_was_removed_stores_the_mapping_again() -> None:
    taskhash, outhash = HASHES[:2]
    steps: list[Step] = [
        lambda tx: tx.insert_row(row(taskhash, outhash), 0, UNIHASHES[0]),
        lambda tx: tx.delete_mappings("m", [to_key(taskhash)]),
        lambda tx: tx.insert_row(row(taskhash, outhash), 0, UNIHASHES[1]),
    ]
    results, table = run([[one] for one in steps])
    assert results == [UNIHASHES[0], 1, UNIHASHES[1]]
    assert table.counts()["mappings"] == table.counts()["rows"] == 1
