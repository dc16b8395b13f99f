"""Reports of many tasks, and the answers so far: what makes a retry report only the rest. Pure.

Servers that offer ``report-batch`` (wire/batch.py) are told many in a message; others get a ``report`` each, one behind
the other. Reporting again what was stored already does no harm, so what is unanswered is simply told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from shardhash.client import json_text
from shardhash.errors import ProtocolError
from shardhash.wire.hashes import is_digest_text

BATCH = 1000
"""Reports in one request."""
BATCH_BYTES = 512 << 10
"""Most bytes of reports in one request, unless it is a single one, which may alone be as long as a request can be."""

VALUE_BYTES = 32
"""Bytes that a JSON value counts for at least: 16,000 in a request, of which servers take 20,000."""


_T = TypeVar("_T")


class ReportList:
    """Rows to report, in order; the first `len(unihashes)` are answered."""

    _batchable = True
    """Whether there are requests of many."""
    _one = b'{"report":'
    _columns = "taskhash, method, outhash and unihash"

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = [self._kept(row) for row in rows]
        self.unihashes: list[str] = []
        """The unihash in force for each row that is answered."""

    def _kept(self, row: Mapping[str, Any]) -> bytes | dict[str, Any]:
        try:
            columns = dict(row)
        except (TypeError, ValueError):
            raise TypeError(f"a report is a mapping with {self._columns}, not {repr(row)[:200]}") from None
        return columns if _is_long(columns) else json_text.encode(columns)

    @property
    def complete(self) -> bool:
        """Whether every row is answered."""
        return len(self.unihashes) == len(self._rows)

    def requests(self, *, batched: bool) -> list[tuple[int, int]]:
        """(start, end) of the rows of each request for what is unanswered."""
        start = len(self.unihashes)
        if not (batched and self._batchable):
            return [(place, place + 1) for place in range(start, len(self._rows))]
        places = in_batches(range(start, len(self._rows)), lambda place: _size(self._rows[place]), BATCH)
        return [(some[0], some[-1] + 1) for some in places]

    def encode(self, start: int, end: int, *, batched: bool) -> bytes:
        """The request of these rows."""
        return b"".join(self.pieces(start, end, batched=batched))

    def long(self, start: int, end: int) -> bool:
        """Whether the request of these rows is to be sent in pieces: a siginfo in it is a LongText."""
        return any(type(row) is not bytes for row in self._rows[start:end])

    def pieces(self, start: int, end: int, *, batched: bool) -> Iterator[bytes]:
        """The request of these rows, in pieces."""
        batched = batched and self._batchable
        before, after = (b'{"report-batch":{"reports":[', b"]}}") if batched else (self._one, b"}")
        for row in self._rows[start:end]:
            yield before
            if isinstance(row, bytes):
                yield row
            else:
                from shardhash.wire.long_text import JsonPieces  # and orjson

                yield from JsonPieces(row)
            before = b","
        yield after

    def take_answer(self, answer: object, expected: int, *, batched: bool) -> None:
        """Take the answer to a request of `expected` rows. Raises ProtocolError."""
        unihashes = None
        if isinstance(answer, dict):
            unihashes = answer.get("unihashes") if batched and self._batchable else [answer.get("unihash")]
        if not isinstance(unihashes, list) or len(unihashes) != expected or not all(map(_is_unihash, unihashes)):
            raise ProtocolError(f"the answer to {expected} reports is malformed")
        self.unihashes += unihashes


class EquivalenceList(ReportList):
    """The same of mappings without a row, which no server takes in batches."""

    _batchable = False
    _one = b'{"report-equiv":'
    _columns = "taskhash, method and unihash"


def _is_long(row: Mapping[str, Any]) -> bool:
    return hasattr(row.get("outhash_siginfo"), "parts")  # a LongText, which few need


def in_batches(items: Iterable[_T], size_of: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """The items of each request: `most` at most, and BATCH_BYTES in all, unless one alone has more."""
    some: list[_T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if some and (len(some) >= most or size + more > BATCH_BYTES):
            yield some
            some, size = [], 0
        some.append(item)
        size += more
    if some:
        yield some


def weight_of(row: Mapping[str, Any]) -> int:
    """The `weight` of a row that is not JSON yet."""
    return weight(json_text.encode(row))


def weight(row: bytes) -> int:
    """What the JSON of a row takes of BATCH_BYTES: its bytes, or more if much of it may be values (wire/framing.py)."""
    return max(len(row), VALUE_BYTES * (row.count(b",") + row.count(b"[") + row.count(b"{")))


def _size(row: bytes | dict[str, Any]) -> int:
    return weight(row) if isinstance(row, bytes) else BATCH_BYTES + 1  # by itself: it may be six times as long as JSON


def _is_unihash(value: object) -> bool:
    return isinstance(value, str) and is_digest_text(value)
