"""Conditions, COLUMN and VALUE, of --where and of the lines that `gc-mark-stream` reads from standard input.

Servers ignore columns that they do not know, so a misspelled one would widen a removal, or mark nothing: whoever types
is told of it before anything is sent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from shardhash.base.parser import did_you_mean
from shardhash.wire.rows import MAPPING_CONDITIONS, QUERY_COLUMNS


class Where(argparse.Action):
    """``--where COLUMN VALUE``, into a dict; for `remove`."""

    columns: Sequence[str] = QUERY_COLUMNS

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        """Take one condition."""
        column, value = values
        where = dict(getattr(namespace, self.dest))
        if problem := wrong_column(column, self.columns):
            raise argparse.ArgumentError(self, problem)
        if column in where:
            raise argparse.ArgumentError(self, f"it names {column} twice, and nothing is equal to two values")
        setattr(namespace, self.dest, where | {column: value})


class MarkWhere(Where):
    """The same of a mark, which only mappings have."""

    columns = MAPPING_CONDITIONS


def wrong_column(column: str, columns: Sequence[str]) -> str:
    """What is wrong with the name of a column; "" for one of `columns`."""
    if column in columns:
        return ""
    what = "is a column of outhash rows, and mappings are marked" if column in QUERY_COLUMNS else "is not a column"
    return f"{column} {what}{did_you_mean(column, columns) or '; there are ' + ', '.join(columns)}"


def read_conditions(stream: Iterable[bytes], skipped: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The conditions in lines of ``COLUMN VALUE [COLUMN VALUE ...]``; empty lines hold none.

    Any other line marks nothing; `skipped` is called with its number and what is wrong with it. Raises ValueError at
    the first name that is not a column: most likely the lines behind it have it, too.
    """
    known = set(MAPPING_CONDITIONS)
    for number, line in enumerate(stream, 1):
        try:
            words = line.decode().split()
        except UnicodeDecodeError:
            skipped(f"line {number} of the input is not UTF-8")
            continue
        columns = set(words[::2])
        if len(words) % 2 or len(columns) < len(words) // 2:
            skipped(f"line {number} of the input is not pairs of COLUMN VALUE, each column once: {line[:200]!r}")
            continue
        if not columns <= known:
            column = next(word for word in words[::2] if word not in known)
            problem = wrong_column(column, MAPPING_CONDITIONS)
            raise ValueError(f"line {number} of the input marks nothing, nor do those behind it: {problem}")
        if words:
            yield dict(zip(words[::2], words[1::2], strict=True))
