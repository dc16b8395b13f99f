"""JSON: what the reference's parser takes is taken, everything else ends with a message."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import InvalidRequestError
from shardhash.wire.jsontext import decode

# orjson makes floats of integers that take more than 64 bits; no field of the protocol is that large.
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_takes_what_the_standard_library_writes(value: object) -> None:
    assert decode(json.dumps(value)) == json.loads(json.dumps(value))


def test_takes_what_orjson_does_not() -> None:
    assert math.isnan(decode(b'{"ping": NaN}')["ping"])
    assert decode(b"[-Infinity]") == [-math.inf]
    assert decode(b'"\\ud800"') == "\ud800"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "must be JSON"),
        (b"not json", "must be JSON"),
        (b'"\xff"', "must be UTF-8: byte 1"),
        (b"[" * 5_000, "nested too deep"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, "nested too deep"),
        (b"[1" + b"0" * 10_000 + b"]", "must be JSON"),
        ('{"a": "b\nc"}', "must be JSON"),
        ('"\udc80', "must be JSON"),
    ],
)
def test_refuses(text: bytes | str, what: str) -> None:
    with pytest.raises(InvalidRequestError, match=what):
        decode(text)


@given(st.binary() | st.text(st.characters()))
def test_any_text_gives_a_value_or_a_refusal(text: bytes | str) -> None:
    try:
        decode(text)
    except InvalidRequestError as error:
        str(error).encode()  # it can be sent


@pytest.mark.parametrize("many", ["1,", "{},", '"a",', '{"a":1},'])
def test_many_values_are_not_given_to_the_slow_parser(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.wire.jsontext.json", None)
    with pytest.raises(InvalidRequestError, match="must be JSON"):
        decode('{"ping": ["\\ud800", ' + many * 10_001 + "1]}")


def test_texts_may_hold_what_looks_like_many_values() -> None:
    text = '\udcff, "quoted" [1] \\ {2}\n' * 5_000
    report = {"report": {"method": "m", "outhash_siginfo": text}}
    assert decode(json.dumps(report).encode()) == report
