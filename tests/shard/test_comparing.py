"""Comparing tables: the same state by other ways is the same; whatever differs is seen."""

from __future__ import annotations

import random

import pytest

from shardhash.shard.state.comparing import same_state
from shardhash.shard.state.records import Record
from shardhash.shard.state.table import Table
from tests.shard.life import digest, table_of


def records() -> list[Record]:
    """Outhashes with one, some and many taskhashes, and the other way round; texts, marks, users, no mapping."""
    found: list[Record] = []
    for number in range(120):
        details = ("owner", f"PN{number % 3}", None, None, "do_x")
        outhash = digest(1000 + min(number // 3, 20))
        taskhash = digest(number // 40) if number % 2 else digest(number) if number % 5 else f"text-{number}"
        unihash = digest(number) if number % 7 else None
        found.append(
            ("row", f"m{number % 2}", taskhash, outhash, number, *details, number % 4, unihash, "A" * (number % 2))
        )
        found.append(("idx", f"m{number % 2}", outhash, taskhash, number))
    found.append(("set", "user", "joe", {"permissions": ["@read"]}))
    return found


def test_the_order_in_which_it_came_does_not_matter() -> None:
    one = table_of(records())
    for seed in range(20):
        shuffled = records()
        random.Random(seed).shuffle(shuffled)
        other = Table()
        other.apply(("row", "m0", digest(5000), digest(5001), 1, "else", None, None, None, None, 0, digest(1), ""))
        other.apply(("unrow", "m0", [[digest(5000), digest(5001)]]))
        other.apply(("unmap", "m0", [digest(5000)]))
        other.apply(("set", "config", "x", "y"))
        other.apply(("set", "config", "x", None))
        for record in shuffled:
            other.apply(record)
        same = other.digest() == one.digest()  # of mappings of one taskhash the last one wins
        assert same_state(one, other) is same
        assert same_state(other, one) is same
    assert same_state(Table(), Table())


CHANGES: list[Record] = [
    ("map", "m0", digest(999), digest(1), ""),
    ("map", "m2", digest(2), digest(1), ""),
    ("unmap", "m1", [digest(1)]),
    ("mark", "B", "m1", [digest(1)]),
    ("unrow", "m0", [[digest(2), digest(1000)]]),
    ("unidx", "m0", [[digest(1000), digest(2)]]),
    ("idx", "m0", digest(1000), digest(2), 77),
    ("set", "user", "joe", {"permissions": ["@all"]}),
    ("set", "user", "ann", {}),
    ("row", "m0", digest(2), digest(1000), 2, "owner", "PN0", None, None, "do_x", 2, None, ""),
    ("row", "m0", digest(2), digest(1000), 3, "owner", "PN2", None, None, "do_x", 2, None, ""),
    ("row", "m0", digest(2), digest(1000), 2, "owner", "PN2", None, None, "do_x", 3, None, ""),
    ("row", "m0", digest(2), digest(1000), 2, "owner", "PN2", None, None, "do_x", 0, None, ""),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_whatever_differs_is_seen(change: Record) -> None:
    one, other = table_of(records()), table_of(records())
    assert same_state(one, other)
    other.apply(change)
    assert not same_state(one, other)
    assert not same_state(other, one)
