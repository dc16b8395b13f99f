"""A process that ends with the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
"""A number of prctl(2)."""


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends. One that ended before this is not told of."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
