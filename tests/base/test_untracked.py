"""Lists and sets that the collector does not look into are lists and sets as ever."""

from __future__ import annotations

import gc
import sys

from shardhash.base.untracked import untracked


def test_a_list_of_bytes_is_not_looked_into_and_goes_as_ever() -> None:
    key = bytes([1, 2, 3] * 20)
    before = sys.getrefcount(key)
    items = untracked([key] * 10_000)
    assert not gc.is_tracked(items)
    assert untracked(items) is items
    gc.collect()
    items += [key] * 10_000
    del items[:5_000]
    assert not gc.is_tracked(items)
    assert (len(items), sys.getrefcount(key)) == (15_000, before + 15_000)
    assert gc.is_tracked(items[:10])
    del items
    assert sys.getrefcount(key) == before


def test_a_set_of_bytes_is_not_looked_into_and_goes_as_ever() -> None:
    keys = [bytes([1, 2, number]) * 20 for number in range(200)]
    before = [sys.getrefcount(key) for key in keys]
    items = untracked({keys[0]})
    items |= set(keys)
    items.update(keys)
    items.difference_update(keys[100:])
    gc.collect()
    assert not gc.is_tracked(items)
    assert items == set(keys[:100])
    assert gc.is_tracked(items - {keys[0]})
    assert items.pop() in keys
    del items
    assert [sys.getrefcount(key) for key in keys] == before
