"""Pages of marks: what the workers are asked for at one time, so that a caller who leaves is soon done with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shardhash.wire.rows import Where

MARKS_AT_ONCE = 2000
"""Marks of one request to the workers: some 10 ms of work for each."""


def pages(marks: Sequence[tuple[str, Where]]) -> Iterator[list[tuple[str, Where]]]:
    """Marks to set at one time: many that name their mappings, or one that looks at all."""
    page: list[tuple[str, Where]] = []
    for mark, where in marks:
        named = "unihash" in where or "taskhash" in where
        if page and (not named or len(page) == MARKS_AT_ONCE):
            yield page
            page = []
        page.append((mark, where))
        if not named:
            yield page
            page = []
    if page:
        yield page
