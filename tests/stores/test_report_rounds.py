"""Rounds, over a link whose worker is played here: what shares a request, and what waits for what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shardhash.errors import InternalError, StorageError, UnavailableError
from shardhash.link.messages import FULL_JSON
from shardhash.link.operations import IndexStep, StoreStep
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.answers import Answers
from shardhash.stores.sharded.clock import Clock
from shardhash.stores.sharded.report_order import Reports
from shardhash.stores.sharded.report_rounds import MOST_STEPS, Rounds
from shardhash.wire.rows import Report


class Worker:
    """Sees what a link asks, and answers it by hand."""

    def __init__(self) -> None:
        self.link = WorkerLink(0, 30.0)
        self.lines: set[tuple[str, str]] = set()
        self.barred: set[tuple[str, str]] = set()
        self.rounds = Rounds(self.link, self.lines, self.barred)
        self.outcomes: list[Any] = []

    def add(self, *names: str, weight: int = 0) -> None:
        for name in names:
            self.rounds.add(step(name), weight, self.outcomes.append, self.outcomes.append)

    async def asked(self) -> list[list[str]]:
        """The steps of each round that was asked and is not answered."""
        await settle()
        return [_names(request.sent) for request in self.link._waiting.values()]

    async def answer(self, error: StorageError | None = None) -> None:
        """Answer the oldest round, each step by its name."""
        ((number, request), *_) = self.link._waiting.items()
        self.link._settle(number, None if error else _names(request.sent), error)
        await settle()


def _names(request: bytes | list[Any]) -> list[str]:
    assert isinstance(request, list)
    return [taskhash for _, _, _, _, taskhash, _ in request[2]]


def step(name: str) -> IndexStep:
    return ("index", 1, 1, "m", name, "o")


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


async def test_a_step_of_an_outhash_whose_reports_wait_for_its_lock_waits_behind_them() -> None:
    worker = Worker()
    worker.add("a")
    assert await worker.asked() == [["a"]]
    worker.add("b")
    worker.lines.add(("m", "o"))
    await worker.answer()
    assert worker.outcomes == ["a", None]
    assert await worker.asked() == []
    worker.lines.clear()
    worker.add("c")
    assert await worker.asked() == [["c"]]


async def test_a_report_that_waits_when_its_outhash_is_barred_is_not_decided_by_a_worker() -> None:
    worker = Worker()
    worker.add("a")
    assert await worker.asked() == [["a"]]
    report: StoreStep = ("report", 1, 1, "m", "t", "o", "u", None, None, None, None, None, None)
    worker.rounds.add(report, 0, worker.outcomes.append, worker.outcomes.append)
    worker.barred.add(("m", "o"))
    await worker.answer()
    assert worker.outcomes == ["a", None]
    assert await worker.asked() == []


async def test_a_step_that_follows_from_an_answer_is_in_the_next_round() -> None:
    worker = Worker()
    worker.rounds.add(step("a"), 0, lambda _: worker.add("after a"), worker.outcomes.append)
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
    worker.add("a", "b", weight=FULL_JSON)
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


async def test_a_bug_in_one_step_leaves_no_other_unanswered(caplog: pytest.LogCaptureFixture) -> None:
    """Else their clients would wait for ever, and their turns would never end."""
    worker = Worker()

    def stumble(outcome: object) -> None:
        raise ValueError(f"a bug at {outcome}")

    worker.rounds.add(step("a"), 0, stumble, worker.outcomes.append)
    worker.rounds.add(step("b"), 0, stumble, stumble)
    worker.add("c")
    assert await worker.asked() == [["a", "b", "c"]]
    await worker.answer()
    assert [repr(outcome) for outcome in worker.outcomes] == ["ValueError('a bug at a')", "'c'"]
    assert "internal error while a report failed" in caplog.text
    worker.rounds.add(step("d"), 0, stumble, stumble)
    worker.add("e")
    await worker.asked()
    full = StorageError("the disk is full")
    await worker.answer(full)
    assert worker.outcomes[2:] == [full]


async def test_reports_with_long_details_do_not_share_a_round() -> None:
    link = WorkerLink(0, 30.0)
    reports = Reports([link], Clock(), Answers(0).written)
    text = "x" * (FULL_JSON // 100)
    report = Report("m", "t", "o", "1" * 64, *[text] * 5)
    reports.report([report._replace(taskhash=f"{number}", outhash=f"{number}") for number in range(50)])
    await settle()
    (request,) = link._waiting.values()
    assert isinstance(request.sent, list)
    assert len(request.sent[2]) == 20


async def test_reports_to_a_shard_that_is_gone_leave_nothing_behind() -> None:
    """It may be gone for hours, while builders report on."""
    link = WorkerLink(0, 30.0)
    reports = Reports([link], Clock(), Answers(0).written)
    link.give_up("it is on fire")
    answers = [reports.report([Report("m", f"{number}", "o", "1" * 64)]) for number in range(20)]
    failures = await asyncio.gather(*answers, return_exceptions=True)
    assert {type(failure) for failure in failures} == {UnavailableError}
    await settle()
    assert [link._released, link._requests, link._waiting, link._locks] == [[], [], {}, {}]


async def test_a_step_that_is_refused_is_refused_alone() -> None:
    worker = Worker()
    worker.add("a", "b", "c")
    await worker.asked()
    ((number, _),) = worker.link._waiting.items()
    refusals = [{"refused": ["storage", "the disk is full"]}, {"refused": ["internal", "a bug"]}]
    worker.link._settle(number, [refusals[0], True, refusals[1]], None)
    await settle()
    full, done, bug = worker.outcomes
    assert (type(full), str(full)) == (StorageError, "the disk is full")
    assert (type(bug), str(bug)) == (InternalError, "shard 0: a bug")
    assert done is True
