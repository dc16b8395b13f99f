"""The table against plain dicts: any sequence of records, twice, in any state of its small sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardhash.shard.state import records, search, selection
from shardhash.shard.state import table as table_module
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from shardhash.shard.storage import snapshot_chunks
from shardhash.wire.hashes import split_digests, to_key, to_text

METHODS = ["m", "other.method"]
HASHES = [f"{n:064x}" for n in range(4)] + ["short", "g" * 64, "é"]
UNIHASHES = [f"{n:064x}" for n in range(3, 6)]
MARKS = ["", "A", "B"]

methods = st.sampled_from(METHODS)
hashes = st.sampled_from(HASHES)
times = st.integers(0, 3)
texts = st.sampled_from([None, "x", "y"])
some_hashes = st.lists(hashes, max_size=4).map(lambda found: list(dict.fromkeys(found)))
some_pairs = st.lists(st.tuples(hashes, hashes), max_size=4)
record = st.one_of(
    st.tuples(
        st.sampled_from([records.ROW, records.REPORT]),
        methods,
        hashes,
        hashes,
        times,
        texts,
        texts,
        texts,
        texts,
        texts,
        st.integers(0, 2),
        st.none() | st.sampled_from(UNIHASHES),
        st.sampled_from(MARKS),
    ),
    st.tuples(st.just(records.MAP), methods, hashes, st.sampled_from(UNIHASHES), st.sampled_from(MARKS)),
    st.tuples(st.just(records.UNMAP), methods, some_hashes),
    st.tuples(st.just(records.UNROW), methods, some_pairs),
    st.tuples(st.just(records.MARK), st.sampled_from(MARKS), methods, some_hashes),
    st.tuples(st.just(records.IDX), methods, hashes, hashes, times),
    st.tuples(st.just(records.UNIDX), methods, some_pairs),
    st.tuples(
        st.just(records.SET), st.sampled_from(["user", "config"]), st.sampled_from("uv"), st.none() | st.just([1])
    ),
)
some_records = st.lists(record, max_size=60)


@pytest.fixture(params=[table_module.MOST_SCANNED, 1], autouse=True, scope="module")
def most_scanned(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds for methods that are rare as well. Days are in as many chunks as they have parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "MOST_SCANNED", request.param)
        patch.setattr(snapshot_chunks, "PARTS", 1)
        yield


class Model:
    """What the table holds, as plainly as it can be said."""

    def __init__(self) -> None:
        self.mappings: dict[tuple[str, str], str] = {}
        self.marks: dict[tuple[str, str], str] = {}
        self.rows: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self.index: dict[tuple[str, str, str], int] = {}
        self.entries: dict[tuple[str, str], Any] = {}

    def apply(self, record: Record) -> None:
        getattr(self, record[0])(*record[1:])

    def row(self, m: str, t: str, o: str, *rest: Any) -> None:
        *fields, unihash, mark = rest
        self.rows[m, t, o] = tuple(fields)
        if unihash is not None:
            self.map(m, t, unihash, mark)

    def report(self, m: str, t: str, o: str, *rest: Any) -> None:
        self.row(m, t, o, *rest)
        self.idx(m, o, t, rest[0])

    def map(self, m: str, t: str, unihash: str, mark: str) -> None:
        self.mappings[m, t] = unihash
        self.marks[m, t] = mark

    def unmap(self, m: str, taskhashes: Iterable[str]) -> None:
        for t in taskhashes:
            self.mappings.pop((m, t), None)

    def unrow(self, m: str, pairs: Iterable[tuple[str, str]]) -> None:
        for t, o in pairs:
            self.rows.pop((m, t, o), None)

    def mark(self, mark: str, m: str, taskhashes: Iterable[str]) -> None:
        for t in taskhashes:
            self.marks[m, t] = mark

    def idx(self, m: str, o: str, t: str, created: int) -> None:
        self.index[m, o, t] = created

    def unidx(self, m: str, pairs: Iterable[tuple[str, str]]) -> None:
        for o, t in pairs:
            self.index.pop((m, o, t), None)

    def set(self, kind: str, name: str, value: Any) -> None:
        if value is None:
            self.entries.pop((kind, name), None)
        else:
            self.entries[kind, name] = value


def compare(table: Table, model: Model) -> None:
    table.check()
    assert table.counts()["mappings"] == len(model.mappings)
    assert table.counts()["rows"] == len(model.rows)
    assert table.counts()["index"] == len(model.index)
    for method in METHODS:
        for text in HASHES:
            key = to_key(text)
            unihash = table.unihash(method, key)
            assert (unihash.hex() if unihash else None) == model.mappings.get((method, text))
            if unihash:
                assert table.mark(method, key) == model.marks[method, text]
            found = [(to_text(row.outhash), row.created, *row.details, row.siginfo) for row in table.rows(method, key)]
            mine = [(o, *fields) for (m, t, o), fields in model.rows.items() if (m, t) == (method, text)]
            assert sorted(found, key=repr) == sorted(mine, key=repr)
            assert [row[1] for row in found] == sorted(row[1] for row in mine)
            items = [(created, to_text(t)) for created, t in table.candidates(method, key, 100)]
            assert sorted(items) == sorted((c, t) for (m, o, t), c in model.index.items() if (m, o) == (method, text))
            assert [created for created, _ in items] == sorted(created for created, _ in items)
    digests = b"".join(bytes.fromhex(unihash) for unihash in UNIHASHES)
    assert [bool(flag) for flag in table.exists(digests)] == [u in model.mappings.values() for u in UNIHASHES]
    for wanted in UNIHASHES:
        holders = {place for place, mapped in model.mappings.items() if mapped == wanted}
        (named,) = selection.find_named(table, [{"unihash": wanted}])
        assert {(m, to_text(key)) for m, keys in named for key in keys} == holders
        selected = selection.select_mappings(table, {"unihash": wanted})
        assert {(m, to_text(key)) for m, keys in selected for key in keys} == holders
    assert set(table.methods) == {place[0] for place in (*model.mappings, *model.rows, *model.index)}
    assert set(table.details.numbers) == {fields[1:6] for fields in model.rows.values()}
    entries = {(kind, name): value for kind, named in table.entries.items() for name, value in named.items()}
    assert entries == model.entries


@given(some_records)
@settings(max_examples=200)
def test_records_make_what_a_plain_model_makes(some: list[Record]) -> None:
    table, model = Table(), Model()
    for one in some:
        table.apply(one)
        model.apply(one)
    compare(table, model)


@example(
    [
        ("map", "m", HASHES[0], UNIHASHES[0], ""),
        [0],
        ("row", "m", HASHES[0], HASHES[0], 0, *[None] * 5, 0, UNIHASHES[1], ""),
    ]
)
@given(st.lists(record | st.lists(st.integers(0, 3), max_size=40) | st.just("noted") | st.just("day"), max_size=60))
def test_lookups_are_right_and_put_aside_what_they_found(steps: list[Record | list[int] | str]) -> None:
    """What was asked for since a day began is noted, each at least once, whatever is at hand and goes meanwhile."""
    table, model = Table(), Model()
    due = {method: set[str]() for method in METHODS}
    noted = {method: set[str]() for method in METHODS}
    for step in [*steps, "noted"]:
        if isinstance(step, list):
            texts = [HASHES[number] for number in step]
            for method in METHODS:
                found = table.lookup(method, b"".join(map(bytes.fromhex, texts))).unihashes()
                wanted = [model.mappings.get((method, text)) for text in texts]
                assert [unihash.hex() if unihash else None for unihash in found] == wanted
                due[method] |= {text for text, unihash in zip(texts, wanted, strict=True) if unihash}
        elif isinstance(step, str):
            for method, part in table.methods.items():
                noted[method] |= set(map(to_text, part.take_asked()))
                assert part.aside == 0
                if step == "day":
                    part.clear_asked()
            for method in METHODS:
                there = {text for text in due[method] if (method, text) in model.mappings}
                assert there <= noted[method]
                if step == "day":
                    due[method], noted[method] = set(), set()
        else:
            table.apply(step)
            model.apply(step)
            if step[0] == records.UNMAP:
                noted[step[1]] -= set(step[2])
                due[step[1]] -= set(step[2])
            table.check()


@given(some_records)
def test_applying_records_again_ends_in_the_same_state(some: list[Record]) -> None:
    table = Table()
    for one in some:
        table.apply(one)
    before = table.digest()
    for one in some:
        table.apply(one)
    table.check()
    assert table.digest() == before


@given(some_records, st.integers(1, 3))
def test_chunks_carry_the_whole_state(some: list[Record], size: int) -> None:
    table, loaded = Table(), Table()
    for one in some:
        table.apply(one)
    for chunk in snapshot_chunks.freeze(table, size):
        snapshot_chunks.load(loaded, orjson.loads(orjson.dumps(chunk)))
    loaded.check()
    assert loaded.digest() == table.digest()
    assert sorted(loaded.siginfo_references()) == sorted(table.siginfo_references())


@given(some_records, some_records, st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_fuzzy_walk_and_the_records_since_make_the_state(
    before: list[Record], meanwhile: list[Record], size: int, random: Any
) -> None:
    table, loaded = Table(), Table()
    for one in before:
        table.apply(one)
    for part in table.methods.values():
        part.days.note(part.mappings, 1)
    waiting = list(meanwhile)
    for chunk in snapshot_chunks.freeze(table, size):
        snapshot_chunks.load(loaded, orjson.loads(orjson.dumps(chunk)))
        for _ in range(random.randint(0, 3)):
            if waiting:
                table.apply(waiting.pop(0))
    for one in waiting:
        table.apply(one)
    for one in meanwhile:
        loaded.apply(one)
    loaded.check()
    assert loaded.digest() == table.digest()


def test_all_may_go_at_any_step_of_a_walk() -> None:
    reports: list[Record] = [
        (records.REPORT, method, task, task, 1, "x", *[None] * 4, 0, task, "A")
        for method in METHODS
        for task in HASHES[:4]
    ]
    gone: list[Record] = []
    for method in METHODS:
        pairs = [(task, task) for task in HASHES[:4]]
        gone += [(records.UNMAP, method, HASHES[:4]), (records.UNROW, method, pairs), (records.UNIDX, method, pairs)]

    def walk(moment: int) -> int:
        """All goes when so many chunks were made; the number of chunks."""
        table, loaded = Table(), Table()
        for one in reports:
            table.apply(one)
        for part in table.methods.values():
            part.days.note(part.mappings, 1)
        number = -1
        for number, chunk in enumerate(snapshot_chunks.freeze(table, 1)):
            snapshot_chunks.load(loaded, orjson.loads(orjson.dumps(chunk)))
            for one in gone if number == moment else ():
                table.apply(one)
        for one in gone:
            loaded.apply(one)
        loaded.check()
        assert loaded.digest() == Table().digest()
        return number + 1

    chunks = walk(-1)
    assert chunks == len(METHODS) * 3 * 4  # tasks, index items, parts of the days
    for moment in range(chunks):
        walk(moment)


def test_the_digest_tells_states_apart() -> None:
    seen = set()
    table = Table()
    steps: list[Record] = [
        (records.MAP, "m", HASHES[0], UNIHASHES[0], ""),
        (records.MAP, "m", HASHES[0], UNIHASHES[0], "A"),
        (records.MAP, "m", HASHES[0], UNIHASHES[1], "A"),
        (records.ROW, "m", HASHES[0], HASHES[1], 1, None, None, None, None, None, 0, None, ""),
        (records.ROW, "m", HASHES[0], HASHES[1], 2, None, None, None, None, None, 0, None, ""),
        (records.IDX, "m", HASHES[1], HASHES[0], 2),
        (records.SET, "user", "u", {"permissions": []}),
    ]
    for one in steps:
        table.apply(one)
        seen.add(table.digest())
    assert len(seen) == 7


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=200))
def test_digests_are_split_one_by_one(digests: list[bytes]) -> None:
    assert list(split_digests(b"".join(digests))) == digests


def test_a_unihash_is_in_memory_once() -> None:
    table = Table()
    for n in range(3):
        table.apply((records.MAP, "m", f"{n:064x}", f"{7:064x}", ""))
    table.apply((records.MAP, "m", f"{9:064x}", f"{9:064x}", ""))
    mappings = table.methods["m"].mappings
    assert len({id(mappings[to_key(f"{n:064x}")]) for n in range(3)}) == 1
    (key,) = [key for key in mappings if key == to_key(f"{9:064x}")]
    assert mappings[key] is key


def report(number: int, *details: str, method: str = "m") -> Record:
    hashes = [f"{number:064x}"] * 2
    return (records.REPORT, method, *hashes, number, *details, *[None] * (5 - len(details)), 0, hashes[0], "")


def forget(number: int, method: str = "m") -> list[Record]:
    text = f"{number:064x}"
    return [
        (records.UNMAP, method, [text]),
        (records.UNROW, method, [[text, text]]),
        (records.UNIDX, method, [[text, text]]),
    ]


def test_what_nothing_uses_takes_no_memory() -> None:
    """However many details and methods there ever were."""
    table = Table()
    for number in range(300):
        table.apply(report(number, "owner " * 1000 + str(number), method=f"m{number}"))
        if number:
            for one in forget(number - 1, f"m{number - 1}"):
                table.apply(one)
    table.check()
    assert list(table.methods) == ["m299"]
    assert len(table.details.by_number) == 2
    assert sum(details[0] is not None for details in table.details.by_number) == 1
    assert len(table.details.numbers) == 1


def test_a_search_is_not_misled_by_a_number_that_others_have_now() -> None:
    table = Table()
    for number in range(search.SLICE):
        table.apply(report(number, "owner", "zlib" if number == 3 else "bash"))
    table.apply(report(500, "owner", "zlib"))
    found = search.find(table, {"PN": "zlib"})
    assert [hit.created for hit in next(hits for hits in found if hits)] == [3]
    for number in (3, 500):
        for one in forget(number):
            table.apply(one)
    table.apply(report(500, "owner", "busybox"))  # in the place of another zlib, and with its number
    assert table.details.numbers[("owner", "busybox", None, None, None)] == 1
    assert [hit for hits in found for hit in hits] == []


def test_rows_that_change_while_their_taskhash_is_cut_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "ROWS", 2)
    table = Table()
    for number in range(6):
        row = report(number, "owner", "zlib")
        table.apply((*row[:2], "task", *row[3:]))
    slices = selection.select_rows(table, {"PN": "zlib"}, lambda _reference, _text: False)
    _, first = next(slices)
    assert len(first) == 2
    table.apply((records.UNROW, "m", [["task", f"{number:064x}"] for number in (2, 3)]))
    row = report(3, "owner", "bash")
    table.apply((*row[:2], "task", *row[3:]))
    rest = [int(outhash, 16) for _, pairs in slices for _, outhash in pairs]
    assert rest == [4, 5]


def test_days_of_mappings_that_are_gone_take_no_memory() -> None:
    """However many mappings there ever were: collections remove them for years."""
    table = Table()
    table.apply(report(0))
    for number in range(1, 100):
        table.apply(report(number))
        key = to_key(f"{number:064x}")
        table.methods["m"].days.note((key,), 20_000)
        table.apply((records.UNMAP, "m", [f"{number:064x}"]))
        assert table.last_asked("m", key) == 0
    assert len(table.methods["m"].days) == 0
