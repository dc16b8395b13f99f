"""Bags against a plain dict: any sequence of puts and discards, across all three forms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardhash.shard import bags
from shardhash.shard.bags import SMALL, Bag, BigBag

PREFIX = 1
steps = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2 * SMALL)), max_size=120)


def item(order: int, tail: int) -> bytes:
    return bytes([order]) + str(tail).encode()


@given(steps)
def test_a_bag_is_a_dict_by_tail_in_order(steps: list[tuple[bool, int, int]]) -> None:
    bag: Bag | None = None
    model: dict[bytes, bytes] = {}
    for adding, order, tail in steps:
        one = item(order, tail)
        if adding:
            bag = bags.put(bag, one, PREFIX)
            model[one[PREFIX:]] = one
        elif bag is not None:
            bag = bags.discard(bag, one[PREFIX:], PREFIX)
            model.pop(one[PREFIX:], None)
        assert list(bags.iterate(bag)) == sorted(model.values())
        assert bags.size(bag) == len(model)
        assert bags.find(bag, one[PREFIX:], PREFIX) == model.get(one[PREFIX:])
        if bag is not None:
            assert list(bags.after(bag, one)) == [other for other in sorted(model.values()) if other > one]


def test_the_form_follows_the_size() -> None:
    bag: Bag | None = None
    for tail in range(SMALL + 1):
        bag = bags.put(bag, item(0, tail), PREFIX)
        expected = bytes if tail == 0 else tuple if tail < SMALL else BigBag
        assert isinstance(bag, expected)
    for tail in range(SMALL, -1, -1):
        assert bag is not None
        bag = bags.discard(bag, str(tail).encode(), PREFIX)
    assert bag is None
