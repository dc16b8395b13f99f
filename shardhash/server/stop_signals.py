"""Signals that stop a server, from its first moment on."""

from __future__ import annotations

import asyncio
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Each ends the server in order."""


class StopSignals:
    """Has each of `STOP_SIGNALS` end the start by SystemExit, and set an event once there is an event loop.

    Python loses an exception that a signal's handler raises while an object is freed, or a module's lock, as happens
    while modules are imported. So it is remembered, and the event is set from the beginning.
    """

    def __init__(self) -> None:
        self._came = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._leave)

    def _leave(self, _number: int, _frame: object) -> None:
        self._came = True
        raise SystemExit(0)

    def event(self) -> asyncio.Event:
        """An event of the running loop that each of them sets from now on."""
        event = on_signals(*STOP_SIGNALS)
        if self._came:
            event.set()
        return event


def on_signals(*numbers: signal.Signals) -> asyncio.Event:
    """An event that each of these signals sets."""
    event = asyncio.Event()
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event
