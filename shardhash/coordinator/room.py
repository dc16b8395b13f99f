"""Room: how much is free on the disk of the data, and whether reports are still stored.

Below one level the log warns, below another reports are answered and not stored, long before the disk is full: so
snapshots, removals and everything else on that disk go on. It ends by itself.
"""

from __future__ import annotations

import logging

from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits

log = logging.getLogger(__name__)

_GIB = 1 << 30
WARN = (2 * _GIB, 0.10)
REFUSE = (_GIB // 2, 0.05)
"""Levels unless told otherwise: bytes, or this part of the disk if that is less."""


class Room:
    """The disk of the data. Whoever watches it calls `update`. `limits` may change."""

    def __init__(self, limits: ServerLimits, complaints: Complaints) -> None:
        self.limits = limits
        self.low = False
        """Whether reports are not stored for want of space."""
        self.scarce = False
        """Whether there is little left."""
        self._complaints = complaints
        self._free = 0
        self._total = 0

    def update(self, free: int, total: int) -> None:
        """So many bytes are free now, of so many."""
        self._free, self._total = free, total
        warn, refuse = _level(self.limits.disk_warn, WARN, total), _level(self.limits.disk_refuse, REFUSE, total)
        low = free < (refuse + refuse // 8 if self.low else refuse)  # not back and forth at the level itself
        scarce = low or free < (warn + warn // 8 if self.scarce else warn)
        if low and not self.low:
            log.error(
                "%s on the disk of the data: reports are answered and not stored until %s are free (limit disk_refuse)."
                " Make room, or set --limit disk_refuse=SIZE; lookups go on",
                self.describe(),
                _size(refuse + refuse // 8),
            )
        elif scarce and not self.scarce:
            self._complaints.counts["disk_warn"] += 1
            log.warning(
                "%s on the disk of the data; below %s reports are not stored (limits disk_warn, disk_refuse)",
                self.describe(),
                _size(refuse),
            )
        elif self.low and not low:
            log.info("%s on the disk of the data: reports are stored again", self.describe())
        self.low, self.scarce = low, scarce

    def describe(self) -> str:
        """How much is free, in words."""
        return f"{_size(self._free)} of {_size(self._total)} are free"

    def refuse(self) -> str:
        """A report is not stored for want of room; why, in words."""
        self._complaints.counts["disk_refuse"] += 1
        return (
            f"only {self.describe()} on the server's disk: reports are not stored until there is room (the server's"
            " limit disk_refuse; --limit disk_refuse=SIZE lowers it)"
        )


def _level(told: int, usual: tuple[int, float], total: int) -> int:
    return told or int(min(usual[0], usual[1] * total))


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count >> 20} MiB"
