"""JSON text to values.

orjson does the work. It refuses some text that the reference's parser takes (NaN and the infinities, escaped lone
surrogates, deep nesting); such text is tried again with the standard library's parser, so that a request is judged
by the fields that it uses, not by what else stands in it. Both parsers end deep nesting with an error.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from shardhash.errors import InvalidRequestError

MOST_SLOW = 256 * 1024
"""Bytes of a text that is given to the standard library's parser, which takes ten times as long."""
MOST_SLOW_VALUES = 10_000
"""Values of such a text, about, whose texts may hold what they like."""
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOO_DEEP = "depth limit"
"""What orjson says of it."""
MOST_DIGITS = 100


def decode(text: bytes | str) -> Any:
    """The value of a JSON text. Raises InvalidRequestError that says what is wrong with the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if _TOO_DEEP in str(error):  # of the standard library's parser, each Python has another depth
            raise InvalidRequestError("a request must be JSON: it is nested too deep") from None
        if len(text) > MOST_SLOW or _has_many_values(text):
            raise InvalidRequestError(f"a request must be JSON: {error}") from None
        return _decode_as_reference(text)


def _has_many_values(text: bytes | str) -> bool:
    if len(text) <= MOST_SLOW_VALUES:
        return False
    outside = _TEXT.sub(b"", text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return sum(map(outside.count, (b",", b"[", b"{"))) > MOST_SLOW_VALUES


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:  # it takes the square of their number; no field has so many
        raise ValueError
    return int(text)


def _decode_as_reference(text: bytes | str) -> Any:
    try:
        # Decoded here, because json.loads guesses UTF-16 and UTF-32 from bytes.
        return json.loads(text if isinstance(text, str) else text.decode(), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"a request must be UTF-8: byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"a request must be JSON: {error}") from None
    except ValueError:  # an integer of thousands of digits
        raise InvalidRequestError("a request must be JSON: a number is too long") from None
    except RecursionError:
        raise InvalidRequestError("a request must be JSON: it is nested too deep") from None
