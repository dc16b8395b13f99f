"""The link's messages: what shares one is split before it is too long for the other side."""

from __future__ import annotations

from typing import Any

import pytest

from shardhash.link import messages


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
