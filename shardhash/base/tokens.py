"""Tokens of users in the stock server's form: ``ALGORITHM:SALT:HEXDIGEST``, the digest that of salt and token.

A user's entry keeps one as ``{"scheme": "salted-ALGORITHM", "salt": hex of the salt's UTF-8, "hash": hex}``, so that it
works here as it did there, and can go back. Tokens are random and long, which is why a plain hash may keep them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

SALTED = "salted-"
ALGORITHM = "sha256"
"""What the stock server uses, and new tokens here."""


def salted_hash(scheme: str, salt: bytes, token: str) -> bytes:
    """The digest of a token under a scheme "salted-ALGORITHM". ValueError when there is no such algorithm."""
    return hashlib.new(scheme.removeprefix(SALTED), salt + token.encode("utf-8", "surrogatepass")).digest()


def from_stock(token: str) -> dict[str, str] | None:
    """Scheme, salt and hash of an entry for the stock server's text; None when it can never be checked."""
    algorithm, _, rest = token.partition(":")
    salt, _, digest = rest.rpartition(":")
    scheme = SALTED + algorithm
    try:
        fits = len(salted_hash(scheme, b"", "")) == len(bytes.fromhex(digest))
    except (ValueError, TypeError):  # TypeError: an algorithm of variable length
        return None
    if not fits or digest != digest.lower():
        return None
    return {"scheme": scheme, "salt": salt.encode("utf-8", "surrogatepass").hex(), "hash": digest}


def to_stock(entry: Mapping[str, Any]) -> str | None:
    """The stock server's text for a user's entry; None for a scheme that it cannot check (a password)."""
    scheme = str(entry.get("scheme", ""))
    if not scheme.startswith(SALTED):
        return None
    salt = bytes.fromhex(entry["salt"]).decode("utf-8", "surrogatepass")
    return f"{scheme.removeprefix(SALTED)}:{salt}:{entry['hash']}"
