"""The tally of a connection: what it asked, for statistics, for metrics and for the rates of its host and user."""

from __future__ import annotations

import logging

from shardhash.base.log_format import SLOW
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.rates import TOGETHER
from shardhash.coordinator.services import Services
from shardhash.coordinator.weights import BATCHES, KIB, questions, weight_of
from shardhash.wire import batch
from shardhash.wire.events import Asked, BatchAsked
from shardhash.wire.hashes import DIGEST_SIZE

log = logging.getLogger(__name__)


class Tally:
    """Counts what was answered; `purse` is what the connection may still ask."""

    def __init__(self, services: Services, caller: Caller, peer: str) -> None:
        self.purse = services.rates.purse(caller.group)
        self._caller = caller
        self._stats = services.stats
        self._counters = services.counters
        self._slow = services.slow
        self._peer = peer

    def may_spend(self) -> bool:
        """Whether the next request need not wait for the rates of its host and user."""
        return not self.purse.empty or self.purse.refill_at_once(self._caller.identity.username, self._peer)

    def count(self, event: Asked | BatchAsked, result: str, seconds: float) -> None:
        """A message was answered."""
        if isinstance(event, BatchAsked):
            self.count_frame(event.batch, result, seconds)
            return
        count = questions(event)
        self.purse.requests -= 1 + (count - 1) / TOGETHER
        self.purse.bytes -= weight_of(event)
        self._stats.add(seconds / count, count)
        name = event.command.name
        if name in BATCHES:
            self._counters.batch_sizes.add(count)
        self._counters.answered(name, result, seconds)
        if seconds >= self._slow:
            self._tell_slow(name, count, seconds)

    def count_frame(self, asked: batch.Batch, result: str, seconds: float) -> None:
        """The same for a batch of digests."""
        name = "native-exists" if asked.op == batch.EXISTS else "native-get"
        size = len(asked.digests)
        count = size // DIGEST_SIZE or 1
        self.purse.requests -= 1 + (count - 1) / TOGETHER
        self.purse.bytes -= KIB + size
        self._stats.add(seconds / count, count)
        self._counters.batch_sizes.add(count)
        self._counters.answered(name, result, seconds)
        if seconds >= self._slow:
            self._tell_slow(name, count, seconds)

    def count_report(self, event: Asked, result: str, seconds: float) -> None:
        """The same for a report, in half the time."""
        self.purse.requests -= 1
        self.purse.bytes -= KIB + event.size
        self._stats.add(seconds)
        self._counters.answered("report", result, seconds)
        if seconds >= self._slow:
            self._tell_slow("report", 1, seconds)

    def count_lines(self, stream: str, count: int, size: int, seconds: float) -> None:
        """A block of stream lines, of `size` bytes, was answered."""
        self.purse.requests -= 1 + count / TOGETHER
        self.purse.bytes -= size
        self._stats.add(seconds / count, count)
        self._counters.answered_lines(stream, count, seconds)
        if seconds >= self._slow:
            self._tell_slow(stream, count, seconds)

    def _tell_slow(self, name: str, count: int, seconds: float) -> None:
        log.info(SLOW, self._peer, name, f" of {count}" if count > 1 else "", 1000 * seconds)
