"""Conditions in lines, as `gc-mark-stream` reads them from standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def read_conditions(stream: Iterable[bytes], skipped: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The conditions in lines of ``COLUMN VALUE [COLUMN VALUE ...]``; empty lines hold none.

    A line that is no such thing marks nothing; `skipped` is told which it is and why.
    """
    for number, line in enumerate(stream, 1):
        try:
            words = line.decode().split()
        except UnicodeDecodeError:
            skipped(f"line {number} of the input is not UTF-8")
            continue
        if len(words) % 2 or len(set(words[::2])) < len(words) // 2:
            skipped(f"line {number} of the input is not pairs of COLUMN VALUE, each column once: {line[:200]!r}")
        elif words:
            yield dict(zip(words[::2], words[1::2], strict=True))
