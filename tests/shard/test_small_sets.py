"""Small sets against a plain dict: any sequence of puts and discards, across all three forms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard.state import small_sets
from shardhash.shard.state.small_sets import SMALL, LargeSet, SmallSet

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2 * SMALL)), max_size=120)


def item(order: int, name: int) -> bytes:
    return bytes([order]) + str(name).encode()


def name_of(item: bytes) -> bytes:
    return item[1:]


@given(steps)
def test_a_bag_is_a_dict_by_name_in_order(steps: list[tuple[bool, int, int]]) -> None:
    small_set: SmallSet | None = None
    model: dict[bytes, bytes] = {}
    for adding, order, name in steps:
        one = item(order, name)
        if adding:
            small_set = small_sets.put(small_set, one, name_of)
            model[name_of(one)] = one
        elif small_set is not None:
            small_set = small_sets.discard(small_set, name_of(one), name_of)
            model.pop(name_of(one), None)
        assert list(small_sets.iterate(small_set)) == sorted(model.values())
        assert small_sets.size(small_set) == len(model)
        assert small_sets.find(small_set, name_of(one), name_of) == model.get(name_of(one))
        if small_set is not None:
            assert list(small_sets.after(small_set, one)) == [other for other in sorted(model.values()) if other > one]


def test_the_form_follows_the_size() -> None:
    small_set: SmallSet | None = None
    for name in range(SMALL + 1):
        small_set = small_sets.put(small_set, item(0, name), name_of)
        expected = bytes if name == 0 else tuple if name < SMALL else LargeSet
        assert isinstance(small_set, expected)
    for name in range(SMALL, -1, -1):
        assert small_set is not None
        small_set = small_sets.discard(small_set, str(name).encode(), name_of)
    assert small_set is None
