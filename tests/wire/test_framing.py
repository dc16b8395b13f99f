"""Line framing: lines and chunked messages survive any cut of the bytes, and limits hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import LimitError
from shardhash.wire.framing import (
    CHUNK_THRESHOLD,
    PIECE_SIZE,
    ChunkAssembler,
    LineBuffer,
    LineSplitter,
    check_values,
    encode_json,
)

LIMIT = 10


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    starts = [0, *ends[:-1]]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def feed(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bool]:
    """All lines that come of the pieces, and whether a line was over the limit."""
    splitter = LineSplitter(limit)
    lines: list[bytes] = []
    for piece in pieces:
        try:
            lines += splitter.feed(piece)
        except LimitError:
            return lines, True
    return lines, False


def reference_lines(data: bytes, limit: int = LIMIT) -> tuple[list[bytes], bool]:
    """The same, told simply."""
    *whole, rest = data.split(b"\n")
    lines: list[bytes] = []
    for line in whole:
        if len(line) > limit:
            return lines, True
        lines.append(line.removesuffix(b"\r"))
    return lines, len(rest) > limit


@given(st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bcd", b"12345"])).map(b"".join), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_they_arrive(data: bytes, places: list[int]) -> None:
    lines, over = reference_lines(data)
    assert feed([data[i : i + 1] for i in range(len(data))]) == (lines, over)
    whole, whole_over = feed([*cut(data, places), b""])
    assert whole == lines
    assert whole_over == over


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"bb\n"]), max_size=6).map(b"".join), st.booleans())
def test_what_is_one_line_is_what_feeding_it_would_give(data: bytes, begun: bool) -> None:
    buffer = LineBuffer(4)
    if begun:
        buffer.feed(b"x")
    if buffer.is_line(data):
        assert buffer.feed(data) == data
        assert data.count(b"\n") == 1
        assert buffer.size == 0
        assert not buffer.overrun
    else:
        assert begun or data.count(b"\n") != 1 or not data.endswith(b"\n") or data.endswith(b"\r\n") or len(data) > 5


def test_a_line_may_have_exactly_the_limit() -> None:
    assert feed([b"0123456789\n"]) == ([b"0123456789"], False)
    assert feed([b"01234567890\n"]) == ([], True)
    assert feed([b"0123456789"]) == ([], False)
    assert feed([b"01234567890"]) == ([], True)


def test_lines_before_one_over_the_limit_are_given_first() -> None:
    buffer = LineBuffer(LIMIT)
    assert buffer.feed(b"a\nb\n0123456789x\nc\n") == b"a\nb\n"
    assert buffer.overrun
    with pytest.raises(LimitError, match="longer than 10 bytes"):
        buffer.feed(b"d\n")


def test_an_unfinished_line_is_not_kept_beyond_the_limit() -> None:
    buffer = LineBuffer(LIMIT)
    with pytest.raises(LimitError):
        buffer.feed(b"x" * 1_000_000)
    assert not buffer._tail


def assemble(data: bytes) -> bytes:
    """The message that `encode_json` made."""
    lines = LineSplitter().feed(data)
    if lines[0] != b'{"chunk-stream": null}':
        assert len(lines) == 1
        return lines[0]
    assert len(lines[-1]) == 0
    assert all(0 < len(line.decode()) <= PIECE_SIZE for line in lines[1:-1])
    assembler = ChunkAssembler(len(data))
    messages = [assembler.feed(line) for line in lines[1:]]
    assert messages[:-1] == [None] * (len(lines) - 2)
    assert messages[-1] is not None
    return messages[-1]


@given(st.integers(0, 100_000), st.text("aé€😀", min_size=1, max_size=7))
def test_messages_there_and_back(size: int, letters: str) -> None:
    message = (letters * (size // len(letters) + 1)).encode()
    assert assemble(encode_json(message)) == message


@pytest.mark.parametrize("size", [CHUNK_THRESHOLD - 1, CHUNK_THRESHOLD, 2 * PIECE_SIZE, 2 * PIECE_SIZE + 1])
def test_chunks_at_their_borders(size: int) -> None:
    message = b"x" * size
    data = encode_json(message)
    assert assemble(data) == message
    pieces = -(-size // PIECE_SIZE)
    assert data.count(b"\n") == (1 if size < CHUNK_THRESHOLD else pieces + 2)


def test_chunks_over_the_limit() -> None:
    assembler = ChunkAssembler(5)
    assert assembler.feed(b"123") is None
    assert assembler.feed(b"45") is None
    with pytest.raises(LimitError, match="longer than 5 bytes"):
        assembler.feed(b"6")
    assert not assembler._message


JSON = st.recursive(
    st.none() | st.integers() | st.text('",[{\\]}: ax\u00e9\n'),
    lambda values: st.lists(values) | st.dictionaries(st.text('",[{\\x'), values),
    max_leaves=20,
)
"""Values whose texts look like more of them."""


def commas_and_brackets(value: Any) -> int:
    """Those of its JSON outside of texts: as many as there are values, but for the first, and one for what is empty."""
    if not isinstance(value, list | dict):
        return 0
    values = list(value.values()) if isinstance(value, dict) else value
    return max(1, len(values)) + sum(map(commas_and_brackets, values))


@given(JSON, st.booleans())
def test_values_are_counted_outside_of_texts(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    count = commas_and_brackets(value)
    check_values(text, count)
    if count:
        with pytest.raises(LimitError, match=f"more than {count - 1} JSON values"):
            check_values(text, count - 1)


def test_what_is_no_json_has_too_many_texts() -> None:
    with pytest.raises(LimitError):
        check_values(b'"," ' * 100, 40)
