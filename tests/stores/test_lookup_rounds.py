"""Lookup rounds: what shares a message, and who gets which answer."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

import pytest

from shardhash.errors import UnavailableError
from shardhash.link import messages
from shardhash.stores.sharded.lookup_rounds import Lookups
from shardhash.wire.batch import Found
from tests.stores.shards import ShardHere, running


def digest(first: int, last: int = 0) -> bytes:
    """A digest on the slot `first`."""
    return bytes([first, *[0] * 30, last])


LOW, HIGH, UNKNOWN = digest(1, 1), digest(200, 2), digest(201, 3)


def fill(shards: list[ShardHere]) -> None:
    """LOW and HIGH have a mapping: of themselves."""
    for here, key in zip(shards, (LOW, HIGH), strict=True):
        here.shard.table.set_mapping(here.shard.table.method("m"), key, key, "")


def told(found: Found) -> list[bytes | None]:
    return list(found.unihashes())


async def test_questions_of_a_tick_share_a_message_and_each_caller_gets_its_part() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        asked = [HIGH + UNKNOWN + LOW, LOW, b"", UNKNOWN, HIGH + LOW]
        answers = await asyncio.gather(*(lookups.get("m", digests) for digests in asked))
        assert [told(found) for found in answers] == [[HIGH, None, LOW], [LOW], [], [None], [HIGH, LOW]]
        assert answers[4].known is None
        assert [here.asked["lookup"] for here in shards] == [1, 1]


async def test_a_shard_that_owns_nothing_of_it_is_not_asked() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        assert told(await lookups.get("m", LOW)) == [LOW]
        assert [here.asked["lookup"] for here in shards] == [1, 0]


async def test_each_method_has_a_round_of_its_own() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        one, other = await asyncio.gather(lookups.get("m", LOW), lookups.get("other", LOW))
        assert (told(one), told(other)) == ([LOW], [None])
        assert shards[0].asked["lookup"] == 2


async def test_a_unihash_exists_when_any_shard_has_it() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        asked = [UNKNOWN + HIGH, LOW, UNKNOWN]
        answers = await asyncio.gather(*(lookups.exists(digests) for digests in asked))
        assert answers == [b"\0\1", b"\1", b"\0"]
        assert [here.asked["lookup"] for here in shards] == [1, 1]


async def test_what_would_be_too_long_for_a_message_is_cut_between_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "FULL_MESSAGE", 2 * len(LOW))
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        answers = await asyncio.gather(*(lookups.get("m", LOW) for _ in range(5)), lookups.get("m", LOW * 5))
        assert [told(found) for found in answers] == [[LOW]] * 5 + [[LOW] * 5]
        assert shards[0].asked["lookup"] == 4
        assert await asyncio.gather(*(lookups.exists(HIGH) for _ in range(3))) == [b"\1"] * 3
        assert shards[1].asked["lookup"] == 2


async def test_a_shard_that_is_away_fails_the_rounds_that_need_it() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        shards[1].link.give_up("it is on fire")
        results = await asyncio.gather(
            lookups.get("m", HIGH), lookups.get("other", LOW), lookups.exists(LOW), return_exceptions=True
        )
        assert [type(result) for result in results] == [UnavailableError, Found, UnavailableError]


async def test_a_caller_that_went_away_costs_the_others_nothing() -> None:
    async with running(2) as shards:
        fill(shards)
        lookups = Lookups([here.link for here in shards])
        gone, stays = lookups.get("m", LOW), lookups.get("m", HIGH)
        gone_too, stays_too = lookups.exists(LOW), lookups.exists(HIGH)
        gone.cancel()
        gone_too.cancel()
        assert told(await stays) == [HIGH]
        assert await stays_too == b"\1"


async def test_who_asks_little_is_answered_first() -> None:
    """Of one tick, whoever asked first."""
    many, few = os.urandom(32 * 5000), os.urandom(32 * 10)
    async with running(1) as (here,):
        here.shard.table.set_mapping(here.shard.table.method("m"), few[:32], few[:32], "")
        lookups = Lookups([here.link])
        answered: list[str] = []
        asked: dict[str, asyncio.Future[Any]] = {"many": lookups.get("m", many), "few": lookups.get("m", few)}
        asked |= {"many exist": lookups.exists(many), "few exist": lookups.exists(few)}
        for name, future in asked.items():
            future.add_done_callback(partial(_note, answered, name))
        await asyncio.gather(*asked.values())
        assert answered == ["few", "many", "few exist", "many exist"]
        assert asked["few"].result().unihashes() == [few[:32], *[None] * 9]
        assert here.asked["lookup"] == 4


def _note(answered: list[str], name: str, _future: asyncio.Future[Any]) -> None:
    answered.append(name)
