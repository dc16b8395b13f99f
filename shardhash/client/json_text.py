"""JSON texts of a client: by the standard library for a few, by orjson for many.

orjson takes 16 ms to import, and three times as long as the whole of a single report with it. It saves that once some
hundred KiB of JSON have passed. The bytes are the same.
"""

from __future__ import annotations

import json
import sys
from typing import Any

FEW = 256 * 1024
"""Bytes of JSON after which a process imports orjson."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_seen = 0


def encode(value: object) -> bytes:
    """The text of a value, without white space."""
    global _seen
    if not _many():
        try:
            text = _encode(value).encode()
        except (TypeError, ValueError):
            pass  # orjson knows more types, or says what is wrong
        else:
            _seen += len(text)
            return text
    import orjson

    return orjson.dumps(value)


def decode(text: bytes) -> Any:
    """The value of a text. Raises ValueError if it is not JSON."""
    global _seen
    _seen += len(text)
    # An escape may be half of a character, which orjson refuses, and few texts have any.
    if not _many() and b"\\u" not in text:
        try:
            return json.loads(text.decode(), parse_constant=_refuse)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
    import orjson

    return orjson.loads(text)


def _many() -> bool:
    return _seen > FEW or "orjson" in sys.modules


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
