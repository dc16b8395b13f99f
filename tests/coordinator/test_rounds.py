"""Rounds, over a link whose worker is played here: what shares a request, and what waits for what."""

from __future__ import annotations

import asyncio
from typing import Any

from shardhash.coordinator.links import WorkerLink
from shardhash.coordinator.rounds import MOST_STEPS, Rounds
from shardhash.errors import StorageError
from shardhash.shard.protocol import FULL_MESSAGE


class Worker:
    """Sees what a link asks, and answers it by hand."""

    def __init__(self) -> None:
        self.link = WorkerLink(0, 30.0)
        self.rounds = Rounds(self.link)
        self.outcomes: list[Any] = []

    def add(self, *names: str, weight: int = 0) -> None:
        for name in names:
            self.rounds.add([name], weight, self.outcomes.append, self.outcomes.append)

    async def asked(self) -> list[list[str]]:
        """The steps of each round that was asked and is not answered."""
        await settle()
        return [_names(request) for request, _ in self.link._waiting.values()]

    async def answer(self, error: StorageError | None = None) -> None:
        """Answer the oldest round, each step by its name."""
        ((number, (request, _)), *_) = self.link._waiting.items()
        self.link._settle(number, None if error else _names(request), error)
        await settle()


def _names(request: bytes | list[Any]) -> list[str]:
    assert isinstance(request, list)
    return [name for (name,) in request[2]]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_up_during_a_round_makes_the_next() -> None:
    worker = Worker()
    worker.add("a", "b")
    assert await worker.asked() == [["a", "b"]]
    worker.add("c")
    await settle()
    worker.add("d")
    assert await worker.asked() == [["a", "b"]]
    await worker.answer()
    assert worker.outcomes == ["a", "b"]
    assert await worker.asked() == [["c", "d"]]
    await worker.answer()
    assert worker.outcomes == ["a", "b", "c", "d"]
    assert await worker.asked() == []
    worker.add("e")
    assert await worker.asked() == [["e"]]


async def test_a_step_that_follows_from_an_answer_is_in_the_next_round() -> None:
    worker = Worker()
    worker.rounds.add(["a"], 0, lambda _: worker.add("after a"), worker.outcomes.append)
    assert await worker.asked() == [["a"]]
    worker.add("b")
    await worker.answer()
    assert await worker.asked() == [["b", "after a"]]


async def test_a_round_is_no_longer_than_lookups_can_wait_for() -> None:
    worker = Worker()
    names = [f"{number}" for number in range(MOST_STEPS + 3)]
    worker.add(*names)
    assert await worker.asked() == [names[:MOST_STEPS]]
    await worker.answer()
    assert await worker.asked() == [names[MOST_STEPS:]]
    await worker.answer()
    assert worker.outcomes == names


async def test_long_texts_do_not_share_a_round() -> None:
    worker = Worker()
    worker.add("a", "b", weight=FULL_MESSAGE)
    worker.add("c", "d")
    assert await worker.asked() == [["a"]]
    await worker.answer()
    assert await worker.asked() == [["b"]]
    await worker.answer()
    assert await worker.asked() == [["c", "d"]]


async def test_a_refusal_is_told_to_each_step_of_its_round_and_to_no_other() -> None:
    worker = Worker()
    worker.add("a", "b")
    await worker.asked()
    worker.add("c")
    full = StorageError("the disk is full")
    await worker.answer(full)
    assert worker.outcomes == [full, full]
    await worker.answer()
    assert worker.outcomes == [full, full, "c"]


async def test_steps_for_a_shard_that_was_given_up_fail_until_it_is_back() -> None:
    worker = Worker()
    worker.add("a")
    await worker.asked()
    worker.add("b")
    worker.link.give_up("it is on fire")
    await settle()
    worker.add("c")
    await settle()
    assert [str(outcome) for outcome in worker.outcomes] == [
        "shard 0 is not available: it is on fire; ask again in a while"
    ] * 3
    worker.link._gave_up = None
    worker.add("d")
    assert await worker.asked() == [["d"]]
