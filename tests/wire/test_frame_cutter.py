"""Frames that are cut out of what comes in: the same messages as were sent, or none."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.wire.frame_cutter import MOST_FRAMES, MOST_SIZE, MOST_WALKED, FrameCutter
from shardhash.wire.websocket import BINARY, CONTINUATION, PING, TEXT, encode_frames

KEYS = os.urandom(4 * 3000)
SIZES = st.sampled_from([0, 1, 3, 64, 95, 125, 126, 127, 300, 65_535, 65_536])
FRAMES = st.lists(
    st.tuples(st.sampled_from([TEXT, TEXT, BINARY, PING, CONTINUATION]), SIZES, st.integers(1, 20)), max_size=5
)


def frame(kind: int, payload: bytes, key: bytes = b"\1\2\3\4") -> bytes:
    return bytes(encode_frames(kind, [payload], key))


def sent(runs: list[tuple[int, int, int]]) -> list[tuple[int, bytes, bytes]]:
    """(first byte, payload, frame) of each frame of some runs of alike ones."""
    found: list[tuple[int, bytes, bytes]] = []
    for kind, size, count in runs:
        for number in range(count):
            payload = bytes([65 + number % 26]) * min(size, 125 if kind == PING else size)
            key = KEYS[4 * len(found) : 4 * len(found) + 4]
            found.append((0x80 | kind, payload, frame(kind, payload, key)))
    return found


@given(FRAMES, st.data())
def test_whole_frames_are_found_however_the_others_came(runs: list[tuple[int, int, int]], data: st.DataObject) -> None:
    frames = sent(runs)
    text = b"".join(whole for _, _, whole in frames)
    begins = [0]
    for _, _, whole in frames:
        begins.append(begins[-1] + len(whole))
    near = st.sampled_from([place for begin in begins for place in (begin, begin, begin + 1, begin + 5, begin - 2)])
    places = sorted({min(max(0, place), len(text)) for place in data.draw(st.lists(near, max_size=8))} | {0, len(text)})
    cutter = FrameCutter()
    for start, end in pairwise(places):
        found = cutter.cut(text[start:end])
        if start in begins and end in begins:
            inside = frames[begins.index(start) : begins.index(end)]
            short = all(len(payload) < 65_536 for _, payload, _ in inside)
            if short and end - start <= MOST_SIZE and len(inside) <= MOST_FRAMES:
                assert found == [(first, payload) for first, payload, _ in inside]
                continue
        assert found is None


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x81\x01a", id="no key"),
        pytest.param(frame(TEXT, b"a" * 70_000), id="long"),
        pytest.param(frame(TEXT, b"a") * (MOST_FRAMES + 1), id="many alike"),
        pytest.param((frame(TEXT, b"a") + frame(TEXT, b"bc")) * MOST_FRAMES, id="many"),
    ],
)
def test_what_others_have_to_read_is_passed_by(odd: bytes) -> None:
    cutter = FrameCutter()
    assert cutter.cut(odd) is None
    assert cutter.cut(frame(BINARY, b"next")) == [(0x82, b"next")]


@pytest.mark.parametrize(
    ("size", "most"),
    [
        pytest.param(0, MOST_FRAMES + MOST_WALKED, id="after those that are cut"),
        pytest.param(30, MOST_WALKED, id="at once"),
    ],
)
def test_of_who_sends_far_too_many_nothing_is_cut_any_more(size: int, most: int) -> None:
    cutter = FrameCutter()
    assert cutter.cut(frame(TEXT, b"a" * size) * most) is None
    assert cutter.cut(frame(TEXT, b"a")) == [(0x81, b"a")]
    assert cutter.cut(frame(TEXT, b"a" * size) * (most + 1)) is None
    assert cutter.cut(frame(TEXT, b"a")) is None
    assert cutter.cut(frame(TEXT, b"a")) is None


def test_a_length_may_be_told_in_more_bytes_than_it_needs() -> None:
    cutter = FrameCutter()
    assert cutter.cut(b"\x81\xfe\x00\x01\0\0\0\0a") == [(0x81, b"a")]
    assert cutter.cut(b"\x81\xff" + bytes(7) + b"\x01\0\0\0\0a") is None
    assert cutter.cut(frame(TEXT, b"b")) == [(0x81, b"b")]
