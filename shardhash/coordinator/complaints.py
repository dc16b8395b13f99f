"""Complaints: warnings that may come by the thousand. The first is logged at once, then one a minute with the count."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger(__name__)


def one_line_of_scanners(record: logging.LogRecord) -> bool:
    """Filter of aiohttp's log: what a peer sent or did is no error of ours, and takes one line."""
    if record.exc_info and isinstance(error := record.exc_info[1], OSError | HttpProcessingError):
        record.msg, record.args = f"closed: no HTTP: {error!r:.200}", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
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
