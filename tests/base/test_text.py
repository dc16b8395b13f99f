"""Texts of others in log lines and on terminals."""

from __future__ import annotations

import logging

import pytest

from shardhash.base.text import OneLineFormatter, counted, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本", "plain ünïcode 日本"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_begins_a_line_or_steers_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "many", "text"),
    [
        (0, "", "0 rows"),
        (1, "", "1 row"),
        (2000, "", "2,000 rows"),
        (1, "rows are", "1 row"),
        (2, "rows are", "2 rows are"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, many: str, text: str) -> None:
    assert counted(count, "row", many) == text


def test_a_record_is_one_line() -> None:
    record = logging.LogRecord(
        "n", logging.INFO, "f", 1, "%s: refused: %s", ("peer", "Unable\n2026 ERROR forged"), None
    )
    assert (
        OneLineFormatter("%(levelname)s %(message)s").format(record) == "INFO peer: refused: Unable\\n2026 ERROR forged"
    )
