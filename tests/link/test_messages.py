"""The link's messages: what shares one is split before it is too long for the other side."""

from __future__ import annotations

from typing import Any

import pytest

from shardhash.link import messages
from shardhash.wire.long_text import PART, LongText, cut_parts


def refuse(item: Any) -> None:
    pytest.fail(f"{item} is refused")


def test_items_share_a_message() -> None:
    (message,) = messages.encode_messages([[1, "a"], [2, "b"]], refuse)
    assert messages.decode_json(message) == [[1, "a"], [2, "b"]]


def test_items_that_are_too_long_for_one_message_are_split_in_order() -> None:
    items = [[number, "x" * 100] for number in range(10)]
    split = list(messages.encode_messages(items, refuse, full=250))
    assert max(map(len, split)) < 250
    assert [item for message in split for item in messages.decode_json(message)] == items


def test_a_long_item_has_a_message_of_its_own() -> None:
    items = [[1, "a"], [2, "x" * 1000], [3, "b"]]
    assert [len(messages.decode_json(message)) for message in messages.encode_messages(items, refuse, full=100)] == [
        1,
        1,
        1,
    ]


def test_an_item_that_no_message_takes_is_refused_alone() -> None:
    refused: list[Any] = []
    items = [[1, "a"], [2, "x" * 1000], [3, "b"]]
    split = messages.encode_messages(items, refused.append, full=100, most=500)
    assert [item for message in split for item in messages.decode_json(message)] == [items[0], items[2]]
    assert refused == [items[1]]


def long_text(size: int, letter: str) -> LongText:
    return LongText(cut_parts((letter * size).encode(), more=False)[0])


def test_long_texts_travel_in_parts_before_what_has_them() -> None:
    """However the items are split over messages; no message holds much more than a part or is longer than is due."""
    one, other = long_text(3 * PART, "a"), long_text(PART + 1, "é")
    items = [[1, "round", [["x", one], ["y", None]]], [2, "z" * 90], [3, {"row": other, "rows": [{"text": one}]}], [4]]
    for full in (1, 100, 150, 1000, 1 << 20):
        texts = messages.Texts()
        received = []
        for message in messages.encode_messages(items, refuse, full=full):
            assert len(message) <= PART + 150
            if message[:1] == messages.TEXT:
                texts.add(message)
            else:
                received += messages.decode_json(message, texts)
        assert received == items
        assert isinstance(received[0][2][0][1], LongText)


def test_texts_of_an_item_that_is_refused_are_not_sent() -> None:
    refused: list[Any] = []
    items = [[1, long_text(2 * PART, "a"), "x" * 1000], [2, long_text(2 * PART, "b")]]
    texts, received = messages.Texts(), []
    for message in messages.encode_messages(items, refused.append, most=500):
        if message[:1] == messages.TEXT:
            texts.add(message)
        else:
            received += messages.decode_json(message, texts)
    assert refused == items[:1]
    assert received == items[1:]
