"""Days on which mappings were last asked for: against a dict, packed and back, and small."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.base.timestamps import DAY
from shardhash.shard.state.asked_days import AskedDays, day_of
from shardhash.wire.hashes import Key

keys: st.SearchStrategy[Key] = st.integers(0, 20).map(lambda n: n.to_bytes(32)) | st.text(
    "abcä\ud800", min_size=1, max_size=3
)
steps = st.lists(st.tuples(st.sampled_from(["note", "forget"]), st.lists(keys, max_size=5), st.integers(1, 65535)))


@given(steps)
def test_the_latest_day_of_each_is_kept(told: list[tuple[str, list[Key], int]]) -> None:
    days, model = AskedDays(), dict[Key, int]()
    for what, some, day in told:
        if what == "note":
            days.note(some, day)
            model.update({key: max(day, model.get(key, 0)) for key in some})
        else:
            days.forget(some)
            for key in some:
                model.pop(key, None)
        assert len(days) == len(model)
    everything = {key for _, some, _ in told for key in some}
    assert {key: days.day(key) for key in everything} == {key: model.get(key, 0) for key in everything}
    again = AskedDays()
    for number in days.numbers():
        again.unpack(number, days.pack(number))
    assert again == days


@pytest.mark.parametrize(("number", "packed"), [(0, b"123"), (4096, b""), (-1, b""), (0, b"\2" * 8 + b"\1" * 8)])
def test_what_cannot_have_been_packed_is_refused(number: int, packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed|out of order"):
        AskedDays().unpack(number, packed)


def test_days_take_no_more_than_they_must() -> None:
    """With 200,000, parts are small; with millions it comes near eight bytes each."""
    days = AskedDays()
    digests = os.urandom(32 * 200_000)
    days.note((digests[at : at + 32] for at in range(0, len(digests), 32)), 20_000)
    assert len(days) == 200_000
    assert (sys.getsizeof(days._parts) + sum(map(sys.getsizeof, days._parts.values()))) / len(days) < 13


def test_days_are_numbered_from_1970() -> None:
    assert [day_of(0), day_of(DAY - 1), day_of(DAY), day_of(-5), day_of(1 << 62)] == [0, 0, 1, 0, 65535]
