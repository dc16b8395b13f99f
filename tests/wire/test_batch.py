"""Batch frames: there and back, and nothing but ProtocolError for anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import ProtocolError
from shardhash.wire.batch import (
    EXISTS,
    GET,
    HEAD_SIZE,
    Batch,
    Found,
    decode_answer,
    decode_request,
    encode_exists,
    encode_found,
    encode_request,
)

digest = st.binary(min_size=32, max_size=32)


@given(st.sampled_from([GET, EXISTS]), st.text(max_size=20), st.lists(digest, max_size=5).map(b"".join))
def test_requests_there_and_back(op: int, method: str, digests: bytes) -> None:
    batch = Batch(op, method, digests)
    frame = encode_request(batch)
    assert len(frame) == HEAD_SIZE + len(method.encode()) + len(digests)
    assert decode_request(frame) == batch


@given(st.lists(st.none() | digest, max_size=5))
def test_found_there_and_back(unihashes: list[bytes | None]) -> None:
    found = Found.of(unihashes)
    assert found.unihashes() == unihashes
    assert (found.known is None) == (None not in unihashes)
    answer = decode_answer(encode_found(found))
    assert isinstance(answer, Found)
    assert answer.unihashes() == unihashes


@given(st.lists(st.sampled_from([0, 1]), max_size=5).map(bytes))
def test_exists_there_and_back(status: bytes) -> None:
    assert decode_answer(encode_exists(status)) == status


@given(st.binary(max_size=80))
def test_any_frame_is_taken_or_refused(frame: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(frame)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (b"\1\1\0", "shorter than its head"),
        (b"\2\1" + bytes(6), "version 2 is not known"),
        (b"\1\3" + bytes(6), "op 3 is not known"),
        (b"\1\1\0\0\1\0\0\0" + bytes(31), "its head says 40"),
        (b"\1\1\1\0\0\0\0\0\xff", "method is not UTF-8"),
    ],
)
def test_refused_request_says_why(frame: bytes, what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        decode_request(frame)


def test_what_cannot_be_sent() -> None:
    with pytest.raises(ValueError):
        encode_request(Batch(GET, "m", bytes(31)))
    with pytest.raises(ValueError):
        encode_request(Batch(GET, "m" * 65536, b""))
