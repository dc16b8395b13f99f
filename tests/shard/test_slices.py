"""Long walks stop often, however many rows one taskhash has: lookups go on in between."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from shardhash.shard.state import packing, records, search, selection, small_sets
from shardhash.shard.state.details import Details
from shardhash.shard.state.selection import TEXTS, select_rows, select_unused
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.shard.storage.snapshot_chunks import ROWS
from shardhash.wire.hashes import Key
from shardhash.wire.search import MOST_OUTHASHES

MANY = 4 * selection.ROWS + 500
TASK, OTHER, UNI = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
DETAILS = (None, "zlib", None, None, None)


def outhash(number: int) -> bytes:
    return number.to_bytes(32)


def filled(*, mapped: bool) -> Table:
    """One taskhash with many rows, one with a few."""
    table = Table()
    part = table.method("m")
    if mapped:
        table.set_mapping(part, TASK, UNI, "")
        table.set_mapping(part, OTHER, OTHER, "")
    for number in range(MANY):
        table.put_row(part, TASK, outhash(number), number, DETAILS, 0)
    for number in range(3):
        table.put_row(part, OTHER, outhash(number), number, DETAILS, 0)
    return table


def no_siginfo(_reference: int, _text: str) -> bool:
    return False


@pytest.mark.parametrize("walk", ["rows", "one taskhash", "unused"])
def test_rows_are_selected_a_slice_at_a_time(walk: str) -> None:
    table = filled(mapped=False)
    if walk == "unused":
        slices = select_unused(table, MANY - 1)
    else:
        slices = select_rows(table, {"taskhash": TASK.hex()} if walk == "one taskhash" else {"method": "m"}, no_siginfo)
    found = [pairs for _, pairs in slices]
    assert max(map(len, found)) <= selection.ROWS
    due = {(TASK.hex(), outhash(number).hex()) for number in range(MANY - (walk == "unused"))}
    if walk != "one taskhash":
        due |= {(OTHER.hex(), outhash(number).hex()) for number in range(3)}
    assert {pair for pairs in found for pair in pairs} == due


def test_a_walk_over_taskhashes_without_a_match_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "ROW_SLICE", 4)
    table = Table()
    part = table.method("m")
    for number in range(12):
        table.put_row(part, outhash(number), outhash(number), number, DETAILS, 0)
    assert [pairs for _, pairs in select_rows(table, {"PN": "busybox"}, no_siginfo)] == [[]] * 3


def test_a_taskhash_that_gets_its_mapping_during_the_walk_is_in_use() -> None:
    table = filled(mapped=False)
    slices = select_unused(table, MANY)
    _, first = next(slices)
    assert len(first) == selection.ROWS
    for taskhash in (TASK, OTHER):
        table.set_mapping(table.method("m"), taskhash, UNI, "")
    assert [pairs for _, pairs in slices if pairs] == []


@pytest.mark.parametrize("mapped", [True, False])
def test_a_snapshot_has_many_rows_of_one_taskhash_in_several_chunks(mapped: bool) -> None:
    table, size = filled(mapped=mapped), 100
    chunks = list(snapshot_chunks.freeze(table, size))
    tasks = [chunk for chunk in chunks if chunk["kind"] == "tasks"]
    assert max(len(chunk["row_task"]) for chunk in tasks) == size * ROWS
    loaded = Table()
    for chunk in chunks:
        snapshot_chunks.load(loaded, chunk)
    loaded.check()
    assert loaded.counts() == table.counts()
    assert [loaded.rows("m", taskhash) for taskhash in (TASK, OTHER)] == [table.rows("m", t) for t in (TASK, OTHER)]
    assert loaded.unihash("m", TASK) == (UNI if mapped else None)


def test_texts_are_read_a_few_at_a_time() -> None:
    table = filled(mapped=False)
    read = 0

    def siginfo_is(_reference: int, text: str) -> bool:
        nonlocal read
        read += 1
        return text == "text"

    found, slices = 0, select_rows(table, {"outhash_siginfo": "text", "PN": "zlib"}, siginfo_is)
    before = 0
    for _, pairs in slices:
        assert read - before <= TEXTS
        before = read
        found += len(pairs)
    assert found == read == MANY + 3


def test_a_search_stops_often_however_many_rows_a_taskhash_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SLICE", 10)
    table = filled(mapped=True)
    unpacked = 0
    unpack = packing.unpack_row

    def counted(item: bytes) -> tuple[int, int, Key, int]:
        nonlocal unpacked
        unpacked += 1
        return unpack(item)

    monkeypatch.setattr("shardhash.shard.state.packing.unpack_row", counted)
    for walk, most in (
        (search.find(table, {"PN": "zlib", "taskhash": TASK.hex()}), 2 * 10),
        (search.find(table, {"PN": "bash"}), 2 * 10),
        (search.find_diverging(table, {"PN": "zlib", "until": 0}), 10 + MOST_OUTHASHES),
        (search.find_diverging(table, {"outhash": outhash(MANY - 1).hex()}), 10 + MOST_OUTHASHES),
    ):
        before = unpacked
        for _ in walk:
            assert unpacked - before <= most
            before = unpacked
    found = [hit for hits in search.find(table, {"PN": "zlib"}) for hit in hits]
    assert len(found) == len({(hit.taskhash, hit.row) for hit in found}) == MANY + 3
    (newest,) = [hits for tasks in search.find_diverging(table, {"outhash": outhash(9).hex()}) for hits in tasks]
    assert [hit.created for hit in newest] == list(range(MANY - MOST_OUTHASHES, MANY))


def test_a_row_that_went_while_its_taskhash_was_searched_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SLICE", 10)
    table = filled(mapped=True)
    walk = search.find(table, {"PN": "zlib", "taskhash": TASK.hex()})
    first = next(hits for hits in walk if hits)
    assert len(first) == 10
    table.apply((records.UNROW, "m", [(TASK.hex(), outhash(number).hex()) for number in range(20, MANY)]))
    looked, find = 0, small_sets.find

    def counted(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return find(*arguments)

    monkeypatch.setattr(small_sets, "find", counted)
    found, before = [], 0
    for hits in walk:
        assert looked - before <= 2 * 10
        before = looked
        found += [hit.created for hit in hits]
    assert found == list(range(10, 20))
    assert looked >= MANY - 20


def test_details_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.shard.state.details.SLICE", 10)
    table, compared = Table(), 0
    part = table.method("m")
    for number in range(95):
        table.put_row(part, TASK, outhash(number), number, (None, f"recipe-{number}", None, None, None), 0)

    def matches(details: Details) -> bool:
        nonlocal compared
        compared += 1
        return str(details[1]).endswith("3")

    found: set[int] = set()
    for _, done in zip(table.details.matching(matches, found), count(10, 10), strict=False):
        assert compared == min(done, 95)
    assert found == set(range(3, 95, 10))


@pytest.mark.parametrize(("entries", "size", "most"), [(25, 1, 10), (6, 40_000, 2)])
def test_a_snapshot_has_many_or_large_entries_in_several_chunks(entries: int, size: int, most: int) -> None:
    table = Table()
    values = {f"name{number}": "x" * size for number in range(entries)}
    for name, value in values.items():
        table.apply((records.SET, "user", name, value))
    loaded = Table()
    for chunk in snapshot_chunks.freeze(table, 10):
        assert len(chunk["values"]) <= most
        snapshot_chunks.load(loaded, chunk)
    assert loaded.entries == {"user": values}
