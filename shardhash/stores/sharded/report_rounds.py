"""Rounds: what reports ask of one shard, many at a time.

One round a shard is under way at a time; what comes up meanwhile makes the next. So the more there is to do, the more
of it shares a message, a log write and an fsync, and when there is little, nothing waits. The link asks a round that a
worker left unanswered again: each of its steps is idempotent (shard/protocol.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from shardhash.errors import UnavailableError
from shardhash.link import operations
from shardhash.link.worker_link import WorkerLink

log = logging.getLogger(__name__)

Done: TypeAlias = Callable[[Any], None]
Failed: TypeAlias = Callable[[BaseException], None]
_Steps: TypeAlias = list[tuple[list[Any], int, Done, Failed]]

MOST_STEPS = 500
"""Steps of a round: a worker is busy with them for some 10 ms, and lookups wait for that."""


class Rounds:
    """Gathers the steps of reports in one shard and asks them. Use from the event loop's thread."""

    def __init__(self, link: WorkerLink) -> None:
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[list[Any], int, Done, Failed]] = deque()
        self._under_way = False
        """Whether a round is asked, or is about to be."""

    def add(self, step: list[Any], weight: int, done: Done, failed: Failed) -> None:
        """Ask a step; `weight` is about its bytes, if they may be many. `done` gets its result, `failed` an error."""
        self._waiting.append((step, weight, done, failed))
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._ask)  # after all that is readable now has been read

    def _ask(self) -> None:
        steps = self._take()
        try:
            asked = self.link.request("round", [step for step, _, _, _ in steps])
        except UnavailableError as error:
            self._end(steps, None, error)
            return
        asked.add_done_callback(lambda future: self._answered(steps, future))

    def _take(self) -> _Steps:
        steps: _Steps = []
        weight = 0
        while self._waiting and len(steps) < MOST_STEPS and weight < operations.FULL_MESSAGE:
            steps.append(self._waiting.popleft())
            weight += steps[-1][1]
        return steps

    def _answered(self, steps: _Steps, future: asyncio.Future[list[Any]]) -> None:
        if future.cancelled():
            self._end(steps, None, UnavailableError("the server is shutting down"))
        elif error := future.exception():
            self._end(steps, None, error)
        else:
            self._end(steps, future.result(), None)

    def _end(self, steps: _Steps, answers: list[Any] | None, error: BaseException | None) -> None:
        """Ask the next round, so that the worker has it while this one's clients are answered; then tell everyone."""
        self._under_way = bool(self._waiting)
        if self._under_way:
            self._loop.call_soon(self._ask)
        for position, (_, _, done, failed) in enumerate(steps):
            if answers is None:
                assert error is not None
                _fail(failed, error)
                continue
            try:
                done(answers[position])
            except Exception as bug:  # noqa: BLE001  # it must not leave the others unanswered
                _fail(failed, bug)


def _fail(failed: Failed, error: BaseException) -> None:
    try:
        failed(error)
    except Exception:
        log.exception("a report failed by a bug")
