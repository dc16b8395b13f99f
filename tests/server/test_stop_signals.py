"""Signals that come during a start."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from shardhash.server.stop_signals import STOP_SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_one_whose_exception_is_lost_is_remembered(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(number)

    lost: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.exc_type))
    stop_signals = StopSignals()
    freed = Freed()
    del freed
    assert lost == [SystemExit]
    assert stop_signals.event().is_set()


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_one_ends_a_start_and_later_sets_the_event(number: signal.Signals) -> None:
    stop_signals = StopSignals()
    event = stop_signals.event()
    assert not event.is_set()
    signal.raise_signal(number)
    await event.wait()
    stop_signals = StopSignals()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)
    assert ended.value.code == 0
    assert stop_signals.event().is_set()
