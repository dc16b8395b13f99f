"""Rounds: what reports ask of one shard, many at a time.

One round a shard is under way at a time; what comes up meanwhile makes the next. So the more there is to do, the more
of it shares a message, a log write and an fsync, and when there is little, nothing waits. The link asks a round that a
worker left unanswered again: each of its steps is idempotent (link/operations.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from shardhash.errors import UnavailableError
from shardhash.link import messages
from shardhash.link.operations import Round, Step, StepAnswer
from shardhash.link.worker_link import WorkerLink

log = logging.getLogger(__name__)

Done: TypeAlias = Callable[[Any], None]
Failed: TypeAlias = Callable[[BaseException], None]
_Asked: TypeAlias = list[tuple[Step, int, Done, Failed]]

MOST_STEPS = 500
"""Steps of a round: a worker is busy with them for some 10 ms, and lookups wait for that."""


class Rounds:
    """Gathers the steps of reports in one shard and asks them. Use from the event loop's thread."""

    def __init__(
        self, link: WorkerLink, lines: Collection[tuple[str, str]], barred: Collection[tuple[str, str]]
    ) -> None:
        """`lines`: the outhashes, with their methods, of which earlier reports wait for their lock. `barred`: those
        that equate nothing, of which no worker knows."""
        self.link = link
        self._lines = lines
        self._barred = barred
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Step, int, Done, Failed]] = deque()
        self._under_way = False
        """Whether a round is asked, or is about to be."""

    def add(self, step: Step, weight: int, done: Done, failed: Failed) -> None:
        """Ask a step; `weight` is about its bytes, if they may be many. `done` gets its answer, `failed` an error."""
        self._waiting.append((step, weight, done, failed))
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._ask)  # after all that is readable now has been read

    def _ask(self) -> None:
        asked = self._take()
        if not asked:
            self._under_way = False
            return
        try:
            answers = self.link.request(Round([step for step, _, _, _ in asked]))
        except UnavailableError as error:
            self._end(asked, None, error)
            return
        answers.add_done_callback(lambda future: self._answered(asked, future))

    def _take(self) -> _Asked:
        asked: _Asked = []
        weight = 0
        while self._waiting and len(asked) < MOST_STEPS and weight < messages.FULL_JSON:
            following = step, size, done, _ = self._waiting.popleft()
            if step[0] != "commit" and (self._lines or self._barred):
                outhash = step[3], step[5]
                if outhash in self._lines or (step[0] == "report" and outhash in self._barred):
                    done(None)  # as if it had been asked: it must not overtake them, nor be decided by a worker alone
                    continue
            asked.append(following)
            weight += size
        return asked

    def _answered(self, asked: _Asked, future: asyncio.Future[list[StepAnswer]]) -> None:
        if future.cancelled():
            self._end(asked, None, UnavailableError("the server is shutting down"))
        elif error := future.exception():
            self._end(asked, None, error)
        else:
            self._end(asked, future.result(), None)

    def _end(self, asked: _Asked, answers: list[StepAnswer] | None, error: BaseException | None) -> None:
        """Answer the callers of this round, and ask the next one."""
        self._under_way = bool(self._waiting)
        if self._under_way:  # a tick later: what has become readable meanwhile shall be in it
            self._loop.call_soon(self._loop.call_soon, self._ask)
        for position, (_, _, done, failed) in enumerate(asked):
            if answers is None:
                assert error is not None
                _fail(failed, error)
                continue
            answer = answers[position]
            if isinstance(answer, dict):
                _fail(failed, messages.error_of(answer["refused"], self.link.shard))
                continue
            try:
                done(answer)
            except Exception as bug:  # noqa: BLE001  # it must not leave the others unanswered
                _fail(failed, bug)


def _fail(failed: Failed, error: BaseException) -> None:
    try:
        failed(error)
    except Exception:
        log.exception("internal error while a report failed; this is a bug")
