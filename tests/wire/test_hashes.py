"""Hashes and keys: digest or text, never both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import InvokeError
from shardhash.wire.hashes import (
    FAR,
    SLOTS,
    ShardMap,
    hash_ahead,
    is_digest_text,
    join_digests,
    slot_of,
    slot_of_text,
    to_digest,
    to_key,
    to_text,
)

hex64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
texts = hex64 | hex64.map(str.upper) | st.text() | st.text("0123456789abcdef", min_size=62, max_size=66)


@given(texts)
def test_keys_there_and_back(text: str) -> None:
    key = to_key(text)
    assert to_text(key) == text
    assert isinstance(key, bytes) == is_digest_text(text)
    assert 0 <= slot_of(key) < SLOTS
    assert slot_of_text(text) == slot_of(key)


@given(texts)
def test_digest_is_for_unihashes_only(text: str) -> None:
    if is_digest_text(text):
        assert to_digest(text).hex() == text
    else:
        with pytest.raises(InvokeError, match=r"^Invalid unihash$"):
            to_digest(text)


@given(st.lists(texts, max_size=5))
def test_joined_digests_are_all_or_nothing(hashes: list[str]) -> None:
    joined = join_digests(hashes)
    if all(map(is_digest_text, hashes)):
        assert joined == b"".join(map(bytes.fromhex, hashes))
    else:
        assert joined is None


@given(st.integers(1, 256))
def test_shards_own_ranges_that_cover_all_slots(shards: int) -> None:
    owners = list(ShardMap(shards).owners)
    assert len(owners) == SLOTS
    assert owners == sorted(owners)
    assert set(owners) == set(range(shards))


def test_keys_are_hashed_ahead_for_a_large_table_only() -> None:
    class Counted(bytes):
        hashed = 0

        def __hash__(self) -> int:
            Counted.hashed += 1
            return super().__hash__()

    keys = [Counted(bytes([number])) for number in range(9)]
    assert hash_ahead(keys, range(FAR)) is keys
    assert Counted.hashed == 0
    assert hash_ahead(iter(keys), range(FAR + 1)) == keys
    assert Counted.hashed == len(keys)
