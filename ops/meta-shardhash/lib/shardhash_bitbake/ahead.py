"""Waiting for a server while the caller computes: connecting takes three round trips, gathering tasks seconds."""

from __future__ import annotations

import threading
from typing import Callable, Generic, TypeVar

_R = TypeVar("_R")


class Ahead(Generic[_R]):
    """Runs a piece of work in a thread of its own, from now on. No process must be forked before `wait`."""

    def __init__(self, work: Callable[[], _R]) -> None:
        self._work = work
        self._result: list[_R] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001  # `finish` raises it
            self._error = error

    def wait(self) -> None:
        """Wait for the end of it."""
        self._thread.join()

    def finish(self) -> _R:
        """The same; what it returned, or raise what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]
