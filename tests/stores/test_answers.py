"""Answers at hand: what may be answered without asking a worker, and when all is forgotten."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.stores import answers as answers_module
from shardhash.stores.answers import ENTRY_SIZE, LARGE, Answers
from shardhash.stores.sharded.router import Router
from shardhash.wire.batch import Found
from shardhash.wire.hashes import FAR
from shardhash.wire.rows import Report
from tests.stores.shards import ShardHere, running

SIZE = 1 << 20


def digest(number: int) -> bytes:
    return bytes([number * 37 % 256, *number.to_bytes(31)])


ONE, TWO, THREE, FOUR = (digest(number) for number in range(1, 5))


def learnt(answers: Answers, method: str, *pairs: tuple[bytes, bytes | None]) -> None:
    """Remember an answer that was asked for just before."""
    keys = b"".join(key for key, _ in pairs)
    answers.remember(method, keys, Found.of([unihash for _, unihash in pairs]), answers.asked())


def told(answers: Answers, method: str, *keys: bytes) -> list[bytes | None] | None:
    found = answers.find(method, b"".join(keys))
    return None if found is None else found.unihashes()


def test_what_was_answered_is_at_hand_if_all_of_it_is() -> None:
    answers = Answers(SIZE)
    assert told(answers, "m", ONE) is None
    learnt(answers, "m", (ONE, TWO), (TWO, TWO))
    assert told(answers, "m", TWO, ONE, TWO) == [TWO, TWO, TWO]
    assert told(answers, "m", ONE, THREE) is None
    assert told(answers, "other", ONE) is None
    assert told(answers, "m") == []


def test_a_great_many_are_at_hand() -> None:
    """From so many on, keys are looked for in another order of steps."""
    answers = Answers(64 << 20)
    keys = [digest(number) for number in range(FAR + 2)]
    for start in range(0, len(keys), LARGE):
        learnt(answers, "m", *((key, key) for key in keys[start : start + LARGE]))
    assert told(answers, "m", *keys[-LARGE:]) == keys[-LARGE:]
    assert told(answers, "m", keys[0], digest(FAR + 2)) is None
    learnt(answers, "m", (digest(FAR + 2), None))
    assert told(answers, "m", keys[0], digest(FAR + 2), keys[FAR]) == [keys[0], None, keys[FAR]]
    assert told(answers, "m") == []


def test_unknown_ones_are_at_hand_until_a_report_of_them_ends() -> None:
    answers = Answers(SIZE)
    learnt(answers, "m", (ONE, TWO), (THREE, None), (FOUR, None))
    assert told(answers, "m", THREE, ONE, FOUR) == [None, TWO, None]
    answers.written("m", THREE.hex())
    assert told(answers, "m", THREE) is None
    assert told(answers, "m", FOUR, ONE) == [None, TWO]
    answers.written("other", FOUR.hex())
    assert told(answers, "m", FOUR) == [None]


def test_unknown_ones_are_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    answers = Answers(SIZE)
    learnt(answers, "m", (ONE, TWO), (THREE, None))
    assert told(answers, "m", ONE, THREE) == [TWO, None]
    now += answers_module.UNKNOWN_TIME
    assert told(answers, "m", ONE, THREE) is None
    assert told(answers, "m", ONE) == [TWO]


def test_an_answer_from_before_a_removal_or_report_is_not_remembered() -> None:
    answers = Answers(SIZE)
    asked = answers.asked()
    with answers.removing():
        during = answers.asked()
        learnt(answers, "m", (ONE, ONE))
        assert told(answers, "m", ONE) is None
    for when in (asked, during):
        answers.remember("m", ONE, Found(ONE, None), when)
        answers.remember_existing(ONE, b"\1", when)
        assert told(answers, "m", ONE) is None
        assert not answers.exist(ONE)
    asked = answers.asked()
    answers.written("m", FOUR.hex())
    answers.remember("m", ONE + TWO, Found.of([ONE, None]), asked)
    assert told(answers, "m", ONE) == [ONE], "a report takes no mapping away"
    assert told(answers, "m", TWO) is None


def test_a_removal_forgets_all_and_two_at_a_time_are_both_waited_for() -> None:
    answers = Answers(SIZE)
    learnt(answers, "m", (ONE, TWO), (THREE, None))
    answers.remember_existing(TWO, b"\1", answers.asked())
    with answers.removing():
        with answers.removing():
            pass
        learnt(answers, "m", (ONE, TWO))
        assert told(answers, "m", ONE) is None
    assert told(answers, "m", ONE) is None
    assert not answers.exist(TWO)


def test_existence_is_at_hand_for_unihashes_that_exist() -> None:
    answers = Answers(SIZE)
    answers.remember_existing(ONE + TWO, b"\1\0", answers.asked())
    assert answers.exist(ONE + ONE)
    assert not answers.exist(TWO)
    assert told(answers, "m", ONE) is None, "it is no taskhash"


def test_large_batches_pass_by() -> None:
    answers = Answers(1 << 30)
    keys = b"".join(map(digest, range(LARGE + 1)))
    answers.remember("m", keys, Found(keys, None), answers.asked())
    assert answers.find("m", keys) is None
    assert answers.find("m", keys[:32]) is None


def test_who_has_taken_its_turn_finds_larger_batches() -> None:
    answers = Answers(1 << 30, large=3 * LARGE)
    keys = b"".join(map(digest, range(2 * LARGE)))
    answers.remember("m", keys, Found(keys, None), answers.asked())
    assert answers.find("m", keys) is None, "it would keep all others waiting"
    found = answers.find_many("m", keys)
    assert found is not None
    assert found.unihashes() == list(map(digest, range(2 * LARGE)))
    assert answers.find_many("m", keys + keys) is None


def test_what_is_unknown_is_not_remembered_where_others_store_too() -> None:
    answers = Answers(SIZE, unknown=False)
    learnt(answers, "m", (ONE, TWO), (THREE, None))
    assert told(answers, "m", ONE) == [TWO]
    assert told(answers, "m", THREE) is None


@pytest.mark.parametrize("size", [0, ENTRY_SIZE])
def test_nothing_is_remembered_without_memory(size: int) -> None:
    answers = Answers(size)
    learnt(answers, "m", (ONE, TWO), (THREE, None))
    assert told(answers, "m", ONE) is None
    assert told(answers, "m", THREE) is None


def test_memory_is_bounded_and_what_is_asked_for_stays() -> None:
    answers = Answers(2000 * ENTRY_SIZE)
    keys = [digest(number) for number in range(20_000)]
    for number, key in enumerate(keys):
        learnt(answers, "m", (key, key), (digest(100_000 + number), None))
        assert told(answers, "m", keys[0]) == [keys[0]]
        learnt(answers, f"method {number}", (key, key))
    entries = [*answers._young.values(), *answers._old.values()]
    assert sum(map(len, entries)) <= 2000
    assert len(entries) <= 2000 / 8 + 2
    assert sum(map(len, answers._unknown.values())) <= 1000
    assert told(answers, "m", keys[1]) is None


# ------------------------------------------------------------------------------------------------ within the router


@pytest.fixture
async def shards() -> AsyncIterator[list[ShardHere]]:
    async with running(2) as some:
        yield some


async def test_a_known_wave_asks_no_worker(shards: list[ShardHere]) -> None:
    router = Router([here.link for here in shards])
    await router.report_equiv("m", ONE.hex(), TWO)
    keys = ONE + THREE
    assert router.find("m", keys) is None
    first = (await router.lookup("m", keys)).unihashes()
    asked = [here.asked["lookup"] for here in shards]
    found = router.find("m", keys)
    assert found is not None
    assert found.unihashes() == first == [TWO, None]
    assert (await router.lookup("m", keys)).unihashes() == first
    assert await router.exists(TWO) == await router.exists(TWO) == b"\1"
    assert [here.asked["lookup"] for here in shards] == [count + 1 for count in asked]
    await router.close()


async def test_another_worker_is_asked_anew(shards: list[ShardHere]) -> None:
    router = Router([here.link for here in shards])
    await router.report_equiv("m", ONE.hex(), TWO)
    await router.lookup("m", ONE)
    shards[0].link.reconnected()
    assert router.find("m", ONE) is None
    await router.close()


async def test_a_removal_whose_caller_left_hides_answers_until_it_ends(
    shards: list[ShardHere],
) -> None:
    router = Router([here.link for here in shards])
    await router.report_equiv("m", ONE.hex(), TWO)
    await router.lookup("m", ONE)
    removing = asyncio.create_task(router.remove({"method": "m"}))
    await asyncio.sleep(0)
    removing.cancel()
    await asyncio.sleep(0)
    assert router.find("m", ONE) is None
    await router.remove({"method": "m"})
    assert (await router.lookup("m", ONE)).unihashes() == [None]
    await router.close()


class History:
    """What lookups of a key may answer: what is acknowledged, and what is under way."""

    def __init__(self) -> None:
        self.settled: set[bytes | None] = {None}
        self.under_way = 0
        self.mixed = False
        """Whether changes overlapped: any of them may have been the last."""
        self.seen: list[set[bytes | None]] = []

    def begin(self, value: bytes | None) -> None:
        self.mixed = self.mixed or self.under_way > 0
        self.under_way += 1
        self.settled = self.settled | {value}
        for values in self.seen:
            values.add(value)

    def end(self, value: bytes | None) -> None:
        self.under_way -= 1
        for values in self.seen:
            values.add(value)
        self.settled = self.settled | {value} if self.mixed else {value}
        self.mixed = self.mixed and self.under_way > 0


@settings(max_examples=60)
@given(st.integers(0, 1 << 30))
def test_no_lookup_after_an_acknowledgement_is_wrong(seed: int) -> None:
    asyncio.run(_random_life(random.Random(seed)))


async def _random_life(chance: random.Random) -> None:
    keys = [digest(number) for number in range(4)]
    histories = {key: History() for key in keys}
    number = 0

    async def look_up(router: Router) -> None:
        asked = chance.sample(keys, chance.randint(1, 3))
        allowed = [set(histories[key].settled) for key in asked]
        for key, values in zip(asked, allowed, strict=True):
            histories[key].seen.append(values)
        found = (await router.lookup("m", b"".join(asked))).unihashes()
        for key, values, unihash in zip(asked, allowed, found, strict=True):
            assert unihash in values
            histories[key].seen = [other for other in histories[key].seen if other is not values]

    async def report(router: Router) -> None:
        nonlocal number
        number += 1
        key, unihash = chance.choice(keys), digest(1000 + number)
        histories[key].begin(unihash)
        reported = Report("m", key.hex(), digest(2000 + number).hex(), unihash.hex())
        (in_force,) = await router.report([reported])
        histories[key].end(in_force)

    async def remove(router: Router) -> None:
        key = chance.choice(keys)
        histories[key].begin(None)
        await router.remove({"taskhash": key.hex()})
        histories[key].end(None)

    async with running(2) as shards:
        router = Router([here.link for here in shards])
        running_tasks: set[asyncio.Task[None]] = set()
        for _ in range(120):
            work = chance.choices((look_up, report, remove), (6, 2, 1))[0]
            running_tasks.add(asyncio.create_task(work(router)))
            for _ in range(chance.choice((0, 1, 1, 3, 10, 40))):
                await asyncio.sleep(0)
            for task in [task for task in running_tasks if task.done()]:
                running_tasks.discard(task)
                task.result()
        await asyncio.gather(*running_tasks)
        for key in keys:
            assert (await router.lookup("m", key)).unihashes()[0] in histories[key].settled
        await router.close()
