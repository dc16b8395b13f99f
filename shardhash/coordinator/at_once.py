"""At once: what a connection asks and is answered without waking its task, which would be a third of what it costs.

Waves that are wholly at hand are answered as they are read, and a report is begun as it is read and answered as soon as
it is stored. Whatever else comes in is fed to the session, which goes on when the report is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter

from shardhash.base.wakeup import Wakeup
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import FAILED, OK, REFUSED
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.pending import Pending
from shardhash.coordinator.stream_answers import StreamAnswers
from shardhash.coordinator.tally import Tally
from shardhash.errors import InvokeError
from shardhash.wire.batch import Batch
from shardhash.wire.events import Asked, BatchAsked, Event, StreamLines
from shardhash.wire.rows import Report


class AtOnce:
    """The answers of a session that need no task."""

    def __init__(
        self,
        handlers: Handlers,
        lines: StreamAnswers,
        tally: Tally,
        caller: Caller,
        pending: Pending,
        wakeup: Wakeup,
        may_ask: Callable[[], bool],
    ) -> None:
        """`wakeup` is what the session waits for; `may_ask`: whether the client is there and may ask on."""
        self.idle = False
        """Whether the session waits for events; then something may be answered here."""
        self.begun: asyncio.Future[list[bytes]] | None = None
        """The report that is under way. The session answers nothing meanwhile."""
        self.undone: BaseException | None = None
        """Why it failed. The session tells it, and ends."""
        self.drained: Callable[[], None] = _nothing
        """Called when less waits than before."""
        self._handlers = handlers
        self._lines = lines
        self._tally = tally
        self._caller = caller
        self._pending = pending
        self._events = pending.events
        self._wakeup = wakeup
        self._may_ask = may_ask

    def let_go(self) -> None:
        """The session is over: forget whatever knows it."""
        self.drained = _nothing
        self._may_ask = bool  # False

    @property
    def _free(self) -> bool:
        return self.idle and not self._events and self._may_ask() and self._tally.may_spend()

    def answer(self, events: list[Event]) -> bytes | None:
        """The answer to these events, stream lines or one frame, if nothing waits before them and all is at hand.

        Otherwise None, and they are to be fed. Most waves of a build that others went before end here.
        """
        if len(events) != 1 or not self._free:
            return None
        event = events[0]
        started = perf_counter()
        if type(event) is StreamLines and event.command.name == "get-stream":
            answer = self._lines.at_hand(event)
            if answer is not None:
                self._tally.count_lines("get-stream", event.count, len(event.text), perf_counter() - started)
            return answer
        return self._answer_batch(event.batch) if type(event) is BatchAsked else None

    def answer_batch(self, asked: Batch) -> bytes | None:
        """The frame that answers a batch, if nothing waits before it and all is at hand; else it is to be fed."""
        return self._answer_batch(asked) if self._free else None

    def _answer_batch(self, asked: Batch) -> bytes | None:
        started = perf_counter()
        answer = self._handlers.frame_at_hand(self._caller, asked)
        if answer is not None:
            self._tally.count_frame(asked, OK, perf_counter() - started)
        return answer

    def begin_report(self, event: Asked, write: Callable[[bytes], None]) -> bool:
        """Begin to answer a report, if nothing waits before it and its caller may store it; else it is to be fed.

        `write` is given the JSON of the answer.
        """
        request = event.request
        if type(request) is not Report or not self._free:
            return False
        started = perf_counter()
        stored = self._handlers.begin_report(self._caller, request)
        if stored is None:
            return False
        self.begun = stored
        self.idle = False
        self._pending.begin(event)
        stored.add_done_callback(partial(self._end_report, event, request, started, write))
        return True

    def _end_report(
        self,
        event: Asked,
        report: Report,
        started: float,
        write: Callable[[bytes], None],
        stored: asyncio.Future[list[bytes]],
    ) -> None:
        self.begun = None
        self._pending.done(event)
        result = OK
        try:
            write(self._handlers.end_report(self._caller, report, stored))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the session tells it
            self.undone = error
            result = REFUSED if isinstance(error, InvokeError) else FAILED
        self._tally.count_report(event, result, perf_counter() - started)
        self.drained()
        self.idle = not self._events and self.undone is None and self._may_ask()
        if not self.idle:
            self._wakeup.wake()


def _nothing() -> None:
    pass
