"""The newest taskhashes of each task: those that a plain computation gives, whenever the index is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard.state import recent_tasks, records
from shardhash.shard.state.recent_tasks import RecentTasks
from shardhash.shard.state.table import Table
from shardhash.wire.hashes import to_text
from shardhash.wire.search import MOST_VARIANTS

ROWS = st.tuples(st.integers(0, 9), st.integers(0, 1 << 40), st.sampled_from(["a", "b", None]), st.integers(0, 2))


def taskhash(number: int) -> bytes:
    return bytes([number]) * 32


def put(table: Table, number: int, created: int, recipe: str | None, outhash: int) -> None:
    details = (None, recipe, None, None, "compile")
    table.put_row(table.method("m"), taskhash(number), taskhash(100 + outhash), created, details, 0)


def newest(table: Table, recipe: str) -> list[tuple[int, bytes]]:
    """As plainly as can be: the rows that are there, newest first, each taskhash once."""
    rows = [
        (row.created, key)
        for key in map(taskhash, range(10))
        for row in table.rows("m", key)
        if row.details[1] == recipe
    ]
    found: list[tuple[int, bytes]] = []
    for created, key in sorted(rows, reverse=True):
        if key not in [known for _, known in found]:
            found.append((created, key))
    return found[:MOST_VARIANTS]


def remove(table: Table, number: int, outhash: int) -> None:
    table.apply((records.UNROW, "m", [(to_text(taskhash(number)), to_text(taskhash(100 + outhash)))]))


@given(
    st.lists(ROWS, unique_by=lambda row: (row[0], row[3])),
    st.integers(0, 20),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2))),
)
def test_it_holds_the_newest(
    rows: list[tuple[int, int, str | None, int]], before: int, size: int, removed: list[tuple[int, int]]
) -> None:
    """Some rows are there before the index is made, some come while it is made, and the others later. Some go."""
    table = Table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_tasks, "SLICE", size)
        for row in rows[:before]:
            put(table, *row)
        part = table.method("m")
        part.recent = recent = RecentTasks(table, "m")
        for row in rows[before:]:
            next(recent.walk, None)
            put(table, *row)
        for gone in removed:
            remove(table, *gone)
        for _ in recent.walk:
            pass
    assert recent.complete
    for recipe in ("a", "b"):
        found, due = recent.find(recipe, "compile"), newest(table, recipe)
        if not removed:
            assert found == due
        # What older rows of a task stand for is left out while newer ones are there, and does not come back.
        assert {key for _, key in found} <= left(table, recipe)
    assert recent.find("c", "compile") == []


def left(table: Table, recipe: str) -> set[bytes]:
    """The taskhashes that a recipe's rows have."""
    return {key for key in map(taskhash, range(10)) if any(row.details[1] == recipe for row in table.rows("m", key))}


def test_what_is_reported_and_removed_leaves_nothing() -> None:
    """However often: else the names of dead tasks would fill it, and those to come would not be kept."""
    table = Table()
    table.method("m").recent = recent = RecentTasks(table, "m")
    put(table, 0, 1, "stays", 0)
    for number in range(1, 100):
        put(table, number, number, f"recipe {number}", 0)
        put(table, number, number, f"recipe {number}", 1)
        remove(table, number, 0)
        assert recent.find(f"recipe {number}", "compile") == [(number, taskhash(number))], "another row has it"
        remove(table, number, 1)
    assert len(recent._items) == 1


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_tasks, "MOST_TASKS", 2)
    table = Table()
    table.method("m").recent = recent = RecentTasks(table, "m")
    for number, recipe in enumerate(("a", "b", "c")):
        put(table, number, number, recipe, 0)
    assert [len(recent.find(recipe, "compile")) for recipe in "abc"] == [1, 1, 0]


def test_texts_are_left_out() -> None:
    """A taskhash that is no digest cannot be packed; builds have none."""
    recent = RecentTasks(Table(), "m")
    recent.note("text", 1, (None, "a", None, None, "compile"))
    assert recent.find("a", "compile") == []
    assert to_text(taskhash(1)) == "01" * 32
