"""Spread dicts and sets are as dicts and sets, and no part of them grows much."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard.state.spread import SpreadDict, SpreadSet
from shardhash.wire.hashes import Key

KEYS = st.one_of(st.integers(0, 9).map(lambda number: number.to_bytes(32)), st.sampled_from(["a", "task", ""]))


@given(st.lists(st.tuples(KEYS, st.sampled_from(["set", "pop", "get"]), st.integers(0, 3))))
def test_a_spread_dict_is_a_dict(steps: list[tuple[Key, str, int]]) -> None:
    spread, plain = SpreadDict[int](), dict[Key, int]()
    for key, step, value in steps:
        if step == "set":
            spread[key] = plain[key] = value
        elif step == "pop":
            assert spread.pop(key, -1) == plain.pop(key, -1)
        assert spread.get(key, -1) == plain.get(key, -1)
        assert (key in spread) == (key in plain)
        assert (bool(spread), len(spread)) == (bool(plain), len(plain))
    assert set(spread) == set(plain)
    assert {key: spread[key] for key in spread} == plain
    assert sorted(spread.values()) == sorted(plain.values())
    again = SpreadDict[int]()
    for key, value in reversed(plain.items()):
        again[key] = value
    assert again == spread


@given(st.lists(st.lists(KEYS)))
def test_a_spread_set_is_a_set(steps: list[list[Key]]) -> None:
    spread, plain = SpreadSet(), set[Key]()
    for keys in steps:
        spread.update(keys)
        plain.update(keys)
        assert len(spread) == len(plain)
    assert set(spread) == plain
    assert all(key in spread for key in plain)
    assert b"other" not in spread


def test_keys_are_spread_evenly() -> None:
    spread, number = SpreadSet(), 20_000
    spread.update(sha256(b"%d" % one).digest() for one in range(number))
    assert len(spread.parts) == 256
    assert max(map(len, spread.parts.values())) < 2 * number // 256
