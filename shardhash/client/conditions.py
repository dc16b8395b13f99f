"""Conditions in lines, as `gc-mark-stream` reads them from standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def read_conditions(stream: Iterable[bytes], skipped: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The conditions in lines of ``COLUMN VALUE [COLUMN VALUE ...]``; empty lines hold none.

    Any other line marks nothing; `skipped` is called with its number and what is wrong with it.
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
