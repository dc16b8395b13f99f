"""Tokens in the stock server's form: checked here as there, and back unchanged."""

from __future__ import annotations

import pytest

from shardhash.base.tokens import from_stock, salted_hash, to_stock
from tests.moving.databases import stock_token


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha3_256"])
@pytest.mark.parametrize("salt", ["c0ffee", "", "with:colon", "ünï"])
def test_a_token_goes_there_and_back(algorithm: str, salt: str) -> None:
    text = stock_token("secret", salt, algorithm)
    entry = from_stock(text)
    assert entry is not None
    assert salted_hash(entry["scheme"], bytes.fromhex(entry["salt"]), "secret").hex() == entry["hash"]
    assert salted_hash(entry["scheme"], bytes.fromhex(entry["salt"]), "other").hex() != entry["hash"]
    assert to_stock(entry) == text


@pytest.mark.parametrize(
    "text",
    ["", "secret", "sha256:salt", "sha256:salt:", "nosuch:salt:" + "ab" * 32, "sha256:salt:" + "ab" * 31,
     "sha256:salt:" + "xy" * 32, "sha256:salt:" + "AB" * 32, "shake_128:salt:" + "ab" * 32],
)  # fmt: skip
def test_what_can_never_be_checked(text: str) -> None:
    assert from_stock(text) is None


def test_a_password_cannot_go_back() -> None:
    assert to_stock({"scheme": "scrypt", "salt": "00", "hash": "00"}) is None
