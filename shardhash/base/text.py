"""Texts in log lines and on terminals: counts in words, and texts of others, which are made fit for a line.

Nothing in these can begin a line or steer a terminal.
"""

from __future__ import annotations

import logging
import unicodedata

_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control characters, direction marks and their like, surrogates, line and paragraph separators."""


def printable(text: str) -> str:
    """The text with every character that could begin a line or steer a terminal written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join([_escaped(char) if unicodedata.category(char) in _STEERING else char for char in text])


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun: ``1 row``, ``2,000 rows``. `many`: the plural, where it is more than an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class OneLineFormatter(logging.Formatter):
    """A formatter whose messages are one line each, whatever a client's text in them holds. Tracebacks stay as is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """See logging.Formatter."""
        record.message = printable(record.message)
        return super().formatMessage(record)
