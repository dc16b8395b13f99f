"""Long requests are what a plain parser reads, however they come in; and no step of reading them is long."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import InvalidRequestError, LimitError
from shardhash.wire import long_message, long_text
from shardhash.wire.fields import MAX_TOKEN
from shardhash.wire.long_message import BLOCK, MOST_REST, LongMessage
from shardhash.wire.long_text import ITEMS, PART, JsonPieces, LongText, cut_parts, long_list

MOST = 64 << 20
ROW = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "u"}
SMALL = 64
"""Bytes of a part in these tests, so that they need no megabytes."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_message, "BLOCK", SMALL)
    monkeypatch.setattr(long_message, "PART", 2 * SMALL)


def read(text: bytes, pieces: list[int] | None = None, most_values: int = 1000) -> Any:
    message = LongMessage(MOST, most_values)
    start = 0
    for size in pieces or []:
        message.feed(text[start : start + size])
        start += size
    message.feed(text[start:])
    return message.finish()


def whole(value: Any) -> Any:
    """A value without long texts."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return str(value) if isinstance(value, LongText) else value


def mended(text: str) -> str:
    """As `reported_text` does it."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


TEXTS = st.text(
    st.sampled_from(["\\", '"', "a", "\n", "\0", "é", "€", "\U0001f600", "\ud800", "\udc00", "u", "{", ",", "d"]),
    max_size=4 * SMALL,
)
LONG = st.lists(TEXTS, min_size=1, max_size=6).map(lambda some: "".join(some) + "long" * SMALL)


@pytest.mark.usefixtures("small_parts")
@given(
    st.lists(st.one_of(TEXTS, LONG), min_size=1, max_size=5),
    st.lists(st.integers(1, 3 * SMALL), max_size=20),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_what_is_read_is_what_was_written(
    texts: list[str], pieces: list[int], escaped: bool, separators: tuple[str, str]
) -> None:
    # Two halves of a surrogate pair, one behind the other, are a character in JSON.
    texts = [json.loads(json.dumps(text)) for text in texts]
    if not escaped:
        texts = list(map(mended, texts))
    rows = [ROW | {"outhash_siginfo": text, "PN": "n"} for text in texts]
    text = json.dumps({"report-batch": {"reports": rows}}, ensure_ascii=escaped, separators=separators).encode()
    found = whole(read(text, pieces, 100_000))
    for row in found["report-batch"]["reports"]:
        row["outhash_siginfo"] = mended(row["outhash_siginfo"])
    assert found == {
        "report-batch": {"reports": [row | {"outhash_siginfo": mended(row["outhash_siginfo"])} for row in rows]}
    }


@pytest.mark.usefixtures("small_parts")
@given(st.binary(max_size=600), st.integers(1, 100))
def test_nonsense_is_refused_and_nothing_else_happens(nonsense: bytes, size: int) -> None:
    text = b'{"report": {"outhash_siginfo": "' + nonsense * 3 + b'"}}'
    try:
        due = json.loads(text)
    except ValueError:
        due = None
    try:
        found = whole(read(text, [size] * (len(text) // size), 100_000))
    except InvalidRequestError:
        assert due is None
    else:
        assert due is None or found == whole(due) or "\\u" in text.decode("latin-1")


@pytest.mark.parametrize("piece", [100, PART, 5 * PART])
def test_no_step_looks_at_more_than_a_part(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most that is parsed, copied or decoded at one time, of a text of megabytes; nor does any part grow."""
    sizes: list[int] = []

    def loads(text: bytes) -> Any:
        sizes.append(len(text))
        return orjson.loads(text)

    monkeypatch.setattr(long_message, "orjson", type("", (), {"loads": loads, "JSONDecodeError": ValueError}))
    siginfo = 'drwxr-xr-x root "é" \\ usr/lib\n' * 60_000
    found = read(json.dumps({"report": ROW | {"outhash_siginfo": siginfo}}).encode(), [piece] * 20)
    text = found["report"]["outhash_siginfo"]
    assert isinstance(text, LongText)
    assert str(text) == siginfo
    assert max(sizes) <= BLOCK + 2
    assert max(map(len, text.parts)) <= PART
    pieces = JsonPieces({"all": [text, "x"]})
    encoded = list(pieces)
    assert (pieces.whole, pieces.left) == (None, 0)
    assert b"".join(encoded) == orjson.dumps({"all": [siginfo, "x"]})
    assert max(map(len, encoded)) <= 6 * PART


def test_a_text_of_another_field_is_cut_off() -> None:
    found = read(json.dumps({"report": ROW | {"PN": "é" * 10 * PART, "task": "after"}}).encode())
    assert set(found["report"]["PN"]) == {"é"}
    assert MAX_TOKEN < BLOCK // 7 <= len(found["report"]["PN"]) <= BLOCK // 3
    assert found["report"]["task"] == "after"
    users = {"import-batch": {"users": [{"username": "u", "token": "x" * 3 * BLOCK}]}}
    assert read(json.dumps(users).encode()) == users, "the limit of the field refuses it; none of it may pass"


def test_what_is_long_without_texts_is_refused_before_it_is_all_here() -> None:
    message = LongMessage(MOST, MOST)
    text = b'"0123456789",' * 80
    for _ in range(MOST_REST // len(text)):
        message.feed(text)
    with pytest.raises(InvalidRequestError, match="768 KiB without the outhash_siginfo of reports; send it"):
        message.feed(text * 100)
    assert message.size <= MOST_REST + 2 * PART


def test_limits() -> None:
    message = LongMessage(100, 1000)
    with pytest.raises(LimitError, match="longer than 100 bytes"):
        message.feed(b"x" * 101)
    with pytest.raises(LimitError, match="more than 5 JSON values"):
        read(b'{"report": ' + b"[" * 6 + b" " * 2 * PART, most_values=5)
    siginfo = "a,b" * PART
    assert whole(read(json.dumps({"report": {"outhash_siginfo": siginfo}}).encode(), most_values=70_000)) == {
        "report": {"outhash_siginfo": siginfo}
    }, "the commas of a long text are no values"
    rows = [{"outhash_siginfo": ", [{" * 5_000, "PN": str(number)} for number in range(10)]
    text = json.dumps({"report-batch": {"reports": rows}}, separators=(",", ":")).encode()
    assert whole(read(text, most_values=32))["report-batch"]["reports"] == rows
    with pytest.raises(LimitError, match="more than 31 JSON values"):
        read(text, most_values=31)


@given(st.text(max_size=400), st.integers(4, 50))
def test_parts_cut_no_character(text: str, size: int) -> None:
    data = text.encode("utf-8", "replace")
    parts, left = cut_parts(data, more=False, size=size)
    assert (b"".join(parts), left) == (data, b"")
    assert all(part.decode() for part in parts)
    assert all(len(part) <= size for part in parts)
    assert str(LongText(parts)) == data.decode()
    assert long_text.plain(LongText(parts)) == data.decode()


@pytest.mark.parametrize("size", [0, 1, ITEMS, ITEMS + 1, 3 * ITEMS])
def test_a_long_list_is_made_json_some_at_a_time(size: int) -> None:
    items = [{"username": f"user{number}"} for number in range(size)]
    given = list(items)
    pieces = JsonPieces({"a": 1, "users": long_list(given), "b": [2]})
    parts = [pieces.whole] if pieces.whole is not None else list(pieces)
    assert given == (items if size <= ITEMS else [None] * size)
    assert orjson.loads(b"".join(parts)) == {"a": 1, "users": items, "b": [2]}
    assert max(part.count(b"username") for part in parts) <= ITEMS
    assert len(parts) == (1 if size <= ITEMS else 3 + -(-size // ITEMS))
