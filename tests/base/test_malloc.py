"""The heap, on systems whose C library is not glibc."""

from __future__ import annotations

import asyncio
import ctypes

import pytest

from shardhash.base import malloc


async def test_giving_back_does_not_end_where_nothing_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends when one of its tasks does."""
    monkeypatch.setattr(malloc, "PAUSE", 0.0)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    malloc.keep_buffers()
    giving = asyncio.create_task(malloc.give_back())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not giving.done()
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
