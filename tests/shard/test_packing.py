"""Packed rows and index items: there and back, in order of time, and of the size that memory is counted by."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard.state import packing
from shardhash.wire.hashes import Key

keys: st.SearchStrategy[Key] = st.binary(min_size=32, max_size=32) | st.text(st.characters(), min_size=1)
times = st.integers(0, (1 << 63) - 1)
references = st.just(0) | st.integers(1, (1 << 64) - 1)


@given(times, st.integers(0, (1 << 31) - 1), keys, references)
def test_a_row_there_and_back(created: int, details: int, outhash: Key, siginfo: int) -> None:
    item = packing.pack_row(created, details, outhash, siginfo)
    assert packing.unpack_row(item) == (created, details, outhash, siginfo)
    assert packing.row_name(item) == packing.pack_key(outhash)
    assert packing.siginfo_of(item) == siginfo


@given(times, keys)
def test_an_index_item_there_and_back(created: int, taskhash: Key) -> None:
    item = packing.pack_item(created, taskhash)
    assert packing.unpack_item(item) == (created, taskhash)
    assert packing.item_name(item) == packing.pack_key(taskhash)


@given(times, times, keys, keys, references, references)
def test_items_sort_by_time(one: int, other: int, first: Key, second: Key, some: int, more: int) -> None:
    rows = (packing.pack_row(one, 1, first, some), packing.pack_row(other, 2, second, more))
    items = (packing.pack_item(one, first), packing.pack_item(other, second))
    if one != other:
        assert (rows[0] < rows[1]) == (items[0] < items[1]) == (one < other)


def test_a_row_without_siginfo_takes_80_bytes() -> None:
    allocated = -(-sys.getsizeof(packing.pack_row(1 << 50, 1, bytes(32), 0)) // 16) * 16
    assert allocated == 80
