"""Turns: one a tick, in order, and never for those who have little to do."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from shardhash.base import turns as module
from shardhash.base.turns import Slice, Turns, in_order


async def test_one_turn_a_tick_in_order_and_none_for_the_cancelled() -> None:
    turns, order = Turns(), list[object]()

    async def take(name: int) -> None:
        await turns.next()
        order.append(name)

    async def count_ticks() -> None:
        while len(order) < 12:
            order.append("tick")
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    await asyncio.sleep(0)  # all wait
    tasks[1].cancel()
    await count_ticks()
    assert [name for name in order if name != "tick"] == [0, 2, 3, 4]
    for one, other in zip((0, 2, 3), (2, 3, 4), strict=True):
        assert "tick" in order[order.index(one) : order.index(other)]


async def test_a_slice_is_used_by_running_and_begins_anew_by_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    one = Slice(Turns())
    used = [one.used]  # it begins
    began = perf_counter()
    while perf_counter() == began:
        pass
    used.append(one.used)
    await asyncio.sleep(0)
    used.append(one.used)
    await one.turn()
    used.append(one.used)
    assert used == [False, True, False, False]


async def test_many_texts_are_sorted_some_at_a_time() -> None:
    texts, ticks = [f"{number * 7919 % 1000:03}" for number in range(1000)], 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert [text async for text in in_order(texts, 10)] == sorted(texts)
    ticking.cancel()
    assert ticks >= 198
