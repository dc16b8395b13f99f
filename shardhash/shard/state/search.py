"""Searching a table: the rows that a search (wire/search.py) matches, a slice at a time.

Every generator yields often, also with nothing found, so that a caller can let lookups in between; the table may change
meanwhile. Of details, which rows share by number, only the distinct ones are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from shardhash.base.timestamps import DAY, to_iso, week_of
from shardhash.shard.state import packing, small_sets
from shardhash.shard.state.key_copies import Keys
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.selection import ReadSiginfo
from shardhash.shard.state.table import Details, Row, Table
from shardhash.wire.hashes import Key, to_key, to_text
from shardhash.wire.rows import DETAILS, SIGINFO
from shardhash.wire.search import MOST_OUTHASHES, WHOLE

SLICE = 100
"""Taskhashes, and rows, looked at between one yield and the next: 0.1 ms."""

Conditions: TypeAlias = Mapping[str, Any]
"""A search; `since` and `until` in microseconds since 1970 UTC."""


class Hit(NamedTuple):
    """A row that was found; None for a mapping that came without one."""

    created: int
    method: str
    taskhash: Key
    row: Row | None


def find(table: Table, search: Conditions, taskhashes: Sequence[str] | None = None) -> Iterator[list[Hit]]:
    """What matches. `taskhashes`: where to look, everywhere if None."""
    nothing: list[Hit] = []
    wanted = _Wanted(table, search)
    for _ in wanted.prepare():
        yield nothing
    for method, part in _methods(table, search):
        if taskhashes is None:
            slices = (yield from _candidates(table, part, search)).slices(SLICE)
        else:
            slices = _keys_of(taskhashes)
        for some in slices:
            hits: list[Hit] = []
            for looked, hit in enumerate(chain.from_iterable(wanted.look(method, part, key) for key in some), 1):
                if hit is not None:
                    hits.append(hit)
                if looked % SLICE == 0:
                    yield hits
                    hits = []
            yield hits


def find_diverging(table: Table, search: Conditions) -> Iterator[list[list[Hit]]]:
    """The newest rows of each taskhash that has more than one outhash, if any matches; `MOST_OUTHASHES` at most."""
    nothing: list[list[Hit]] = []
    wanted = _Wanted(table, search)
    for _ in wanted.prepare():
        yield nothing
    for method, part in _methods(table, search):
        keys = yield from table.copies.make(nothing, part.rows)
        for some in keys.slices(4 * SLICE):  # most have one row, which is quickly seen
            found: list[list[Hit]] = []
            looked = 0
            for key in some:
                if isinstance(part.rows.get(key), bytes):
                    continue
                for hit in wanted.look(method, part, key):
                    looked += 1
                    if looked >= SLICE:
                        yield found
                        found, looked = [], 0
                    if hit is not None and hit.row is not None:
                        looked += MOST_OUTHASHES
                        newest = small_sets.newest(part.rows.get(key), MOST_OUTHASHES)
                        if len(newest) > 1:  # rows may have gone while others ran
                            rows = map(table.unpack_row, newest)
                            found.append([Hit(row.created, method, key, row) for row in rows])
                        break
            yield found


def count_saved(table: Table, since: int) -> Iterator[Counter[tuple[str | None, int]]]:
    """(PN, begin of the week) of the tasks reported since then that were given another task's unihash; how many."""
    for part in list(table.methods.values()):
        keys = yield from table.copies.make(Counter(), part.mappings)
        for some in keys.slices(2 * SLICE):
            counts: Counter[tuple[str | None, int]] = Counter()
            for key in some:
                unihash = part.mappings.get(key)
                small_set = part.rows.get(key)
                if unihash is None or unihash == key or small_set is None:
                    continue
                row = table.unpack_row(next(iter(small_sets.iterate(small_set))))
                if row.created >= since:
                    counts[row.details[1], week_of(row.created)] += 1
            yield counts


def describe(table: Table, hit: Hit, read_siginfo: ReadSiginfo | None = None) -> dict[str, Any]:
    """A hit as clients see it; with its siginfo if that can be read."""
    unihash = table.unihash(hit.method, hit.taskhash)
    row = hit.row
    details: Details = (None,) * 5 if row is None else row.details
    text = {} if read_siginfo is None else {SIGINFO: None if row is None else read_siginfo(row.siginfo)}
    return text | {
        "method": hit.method,
        "taskhash": to_text(hit.taskhash),
        "outhash": None if row is None else to_text(row.outhash),
        "created": None if row is None else to_iso(row.created),
        **dict(zip(DETAILS, details, strict=True)),
        "unihash": None if unihash is None else unihash.hex(),
        "gc_mark": table.mark(hit.method, hit.taskhash),
        "asked": _date_of(table.last_asked(hit.method, hit.taskhash)),
        "siginfo": row is not None and row.siginfo != 0,
    }


def _date_of(day: int) -> str | None:
    return to_iso(day * DAY)[:10] if day else None


class _Wanted:
    """A search, ready to be compared."""

    def __init__(self, table: Table, search: Conditions) -> None:
        self._table = table
        self._taskhash, self._outhash, self._unihash = (
            _hash_matcher(search.get(name)) for name in ("taskhash", "outhash", "unihash")
        )
        self._since, self._until = search.get("since", 0), search.get("until", 1 << 62)
        self._named = named = {position: search[name] for position, name in enumerate(DETAILS) if name in search}
        self._numbers: set[int] | None = set() if named else None
        self._bare = not named and self._outhash is None and "since" not in search and "until" not in search
        """Whether a mapping without a row is wanted, too."""

    def prepare(self) -> Iterator[None]:
        """To be gone through before `look`; each step looks at some details."""
        if self._numbers is not None:
            named = self._named
            yield from self._table.details.matching(lambda details: _details_match(details, named), self._numbers)

    def look(self, method: str, part: MethodTable, key: Key) -> Iterator[Hit | None]:
        """The rows of a taskhash that match, and None for each other row; they may change meanwhile."""
        if self._taskhash is not None and not self._taskhash(key):
            return
        if self._unihash is not None:
            unihash = part.mappings.get(key)
            if unihash is None or not self._unihash(unihash):
                return
        small_set = part.rows.get(key)
        if small_set is None:
            if self._bare and key in part.mappings:
                yield Hit(0, method, key, None)
            return
        items = tuple(small_sets.iterate(small_set))
        for item in items:
            if len(items) > 1 and small_sets.find(part.rows.get(key), packing.row_name(item), packing.row_name) != item:
                yield None  # it went
                continue
            hit = None
            created, number, outhash, _ = packing.unpack_row(item)
            if (
                self._since <= created <= self._until
                and (self._numbers is None or number in self._numbers)
                and (self._outhash is None or self._outhash(outhash))
            ):
                row = self._table.unpack_row(item)
                if self._numbers is None or _details_match(row.details, self._named):  # its number was others' before
                    hit = Hit(created, method, key, row)
            yield hit


def _methods(table: Table, search: Conditions) -> list[tuple[str, MethodTable]]:
    wanted, unihash = search.get("method"), search.get("unihash", "")
    parts = table.methods_with(to_key(unihash)) if len(unihash) == WHOLE else list(table.methods.items())
    return [(name, part) for name, part in parts if wanted is None or _text_matches(name, wanted)]


def _candidates(table: Table, part: MethodTable, search: Conditions) -> Generator[list[Hit], None, Keys]:
    if len(search.get("taskhash", "")) == WHOLE:
        return Keys([[to_key(search["taskhash"])]])
    if len(search.get("unihash", "")) == WHOLE:
        return Keys([part.holders(to_key(search["unihash"]))])
    nothing: list[Hit] = []
    return (yield from table.copies.make(nothing, part.mappings, part.unmapped))


def _keys_of(taskhashes: Sequence[str]) -> Iterator[list[Key]]:
    for start in range(0, len(taskhashes), SLICE):
        yield list(map(to_key, taskhashes[start : start + SLICE]))


def _hash_matcher(text: str | None) -> Callable[[Key], bool] | None:
    """Whether a key is a hash, or begins with it. A text of fewer than 8 digits was refused before."""
    if text is None:
        return None
    if len(text) == WHOLE:
        whole = to_key(text)
        return lambda key: key == whole
    try:
        begin = bytes.fromhex(text[: len(text) // 2 * 2])
    except ValueError:
        return lambda key: isinstance(key, str) and key.startswith(text)

    def matches(key: Key) -> bool:
        return to_text(key).startswith(text) if isinstance(key, str) or key.startswith(begin) else False

    return matches


def _details_match(details: Details, named: Mapping[int, str]) -> bool:
    return all(_text_matches(details[position], text) for position, text in named.items())


def _text_matches(value: str | None, wanted: str) -> bool:
    if value is None:
        return False
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted
