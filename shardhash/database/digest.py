"""The digest of a whole state: the same for the same mappings, rows, users and settings, wherever and in what order.

An item is a line of a dump (admin/dump.py). The digest is the sum of a hash of each, so that no order matters.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

import orjson

_SIZE = 16
_MODULUS = 1 << (8 * _SIZE)
KINDS = {"entry": "users and settings", "mapping": "mappings", "row": "outhash rows"}
ITEMS = frozenset((*KINDS, "day", "days-from"))
"""The types of lines that are items."""


class StateDigest:
    """Adds up items; `counts` has how many of each type."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._sum = 0

    def add(self, item: dict[str, Any]) -> None:
        """One more item; about 3 us."""
        self.counts[item["type"]] += 1
        canonical = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
        self._sum += int.from_bytes(blake2b(canonical, digest_size=_SIZE).digest(), "little")

    def add_line(self, line: bytes) -> None:
        """One more line of a dump; its head and end are no items."""
        item = orjson.loads(line)
        if item.get("type") in ITEMS:
            self.add(item)

    @property
    def text(self) -> str:
        """The digest as hex."""
        return f"{self._sum % _MODULUS:0{2 * _SIZE}x}"

    def describe(self) -> str:
        """A line that says how many of each there are."""
        return ", ".join(f"{self.counts[kind]:,} {words}" for kind, words in KINDS.items())
