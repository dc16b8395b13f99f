"""The interface by which a session writes to its client, over any transport."""

from __future__ import annotations

from typing import Protocol


class Output(Protocol):
    """How a transport writes. Each method waits while the peer is slow to read; ConnectionError when it is gone."""

    async def send_raw(self, data: bytes) -> None:
        """The bytes of a Send event."""

    async def send_json(self, value: object) -> None:
        """One JSON answer."""

    async def send_lines(self, lines: bytes) -> None:
        """Stream answers, each ended by a newline, in one write."""

    async def send_frame(self, frame: bytes) -> None:
        """One binary answer."""
