"""Complaints: warnings that may come by the thousand. The first is logged at once, then one a minute with the count."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger(__name__)
quiet = ("shardhash.coordinator.session", "shardhash.coordinator.connections", "shardhash.coordinator.acceptor",
         "shardhash.coordinator.transports.watched", "shardhash.http")  # fmt: skip
"""Loggers that say, at INFO, what peers did."""


def one_line_of_scanners(record: logging.LogRecord) -> bool:
    """Filter of aiohttp's log: what a peer did wrong is not an error of the server, and takes one line."""
    if record.exc_info and isinstance(error := record.exc_info[1], OSError | HttpProcessingError):
        error.__traceback__ = error.__context__ = None  # its frames hold it, and the connection, until a collection
        if not log.isEnabledFor(logging.INFO):
            return False
        text = error.message if isinstance(error, HttpProcessingError) else str(error)
        record.msg, record.args = f"closed: no HTTP: {' '.join(text.split()):.200}", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


class Flood(logging.Filter):
    """Limits how many lines a second peers can cause, and logs how many it left out."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most = most
        self._clock = clock
        self._second = 0
        self._passed = 0
        self._kept = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if record.levelno > logging.INFO:
            return True
        second = int(self._clock())
        if second != self._second:
            self._second, self._passed = second, 0
            if self._kept:
                record.msg, record.args = f"{record.getMessage()} (and {self._kept} lines like this before)", ()
                self._kept = 0
        self._passed += 1
        if self._passed > self.most:
            self._kept += 1
            return False
        return True


PAUSE = 60.0
"""Seconds between two lines of one kind."""


class Complaints:
    """Counts by kind since the start, and tells the log of them."""

    def __init__(self, counts: Counter[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def add(self, kind: str, text: str) -> None:
        """Something of a kind happened; `text` says what, and what to do about it."""
        self.counts[kind] += 1
        now = self._clock()
        when, count = self._told.get(kind, (-PAUSE, 0))
        if now - when < PAUSE:
            return
        self._told[kind] = now, self.counts[kind]
        more = self.counts[kind] - count - 1
        log.warning("%s%s", text, f" (and {more} times since the last such line)" if more else "")
