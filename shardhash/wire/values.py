"""JSON values of requests: what they are, whether they are what is due, and the text that is kept of any."""

from __future__ import annotations

from typing import Any

import orjson

MAX_TEXT = 65536
"""Most characters of a text, unless the field says otherwise."""
MAX_MOMENT = 253_402_300_799_999_999
"""The last microsecond of the year 9999, UTC."""


def describe(value: object) -> str:
    """What a JSON value is, for a message: "a number", "null", ..."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def reported(value: Any, limit: int | None) -> str:
    """The text that is kept of a reported value (fields.py, "reported text")."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool | int | float):
        text = str(value)
    else:
        text = _json_text(value)
    if not text.isascii():
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text[:limit]


def _json_text(value: list[Any] | dict[str, Any]) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, a long integer, deep nesting
        return f"({describe(value)})"


def are_timestamps(values: list[Any]) -> bool:
    """Whether all are whole numbers of microseconds from 1970 to 9999."""
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MAX_MOMENT)


def are_plain(values: list[Any]) -> bool:
    """Whether all are ASCII texts without NUL."""
    return are_texts(values, MAX_TEXT) and (joined := "".join(values)).isascii() and "\0" not in joined


def is_sound(text: str) -> bool:
    """Whether it holds no half of a surrogate pair."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def are_texts(values: list[Any], limit: int) -> bool:
    """Whether all are texts of at most `limit` characters."""
    return not values or (set(map(type, values)) == {str} and max(map(len, values)) <= limit)
