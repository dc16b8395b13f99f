"""Letting go of large containers: some of it a tick."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shardhash.base import letting_go
from shardhash.base.letting_go import let_go


async def test_containers_are_emptied_a_slice_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letting_go, "SLICE", 10)
    containers: list[Any] = [list(range(25)), {}, dict.fromkeys(range(7)), set(range(31))]
    let_go(*containers)
    before = sum(map(len, containers))
    while before:
        await asyncio.sleep(0)
        left = sum(map(len, containers))
        assert 0 <= before - left <= 10
        before = left
    assert containers == [[], {}, {}, set()]


async def test_small_ones_are_left_to_whoever_drops_them() -> None:
    small = list(range(10))
    let_go(small)
    await asyncio.sleep(0)
    assert small == list(range(10))


def test_without_an_event_loop_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letting_go, "SLICE", 10)
    let_go(list(range(25)))
