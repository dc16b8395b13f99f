"""Reports that were made together, by one message, and are acknowledged together."""

from __future__ import annotations

import asyncio


class Together:
    """Reports that were made together and are acknowledged together."""

    __slots__ = ("_future", "_left", "_unihashes")

    def __init__(self, future: asyncio.Future[list[bytes]], count: int) -> None:
        self._future = future
        self._left = count
        self._unihashes = [b""] * count

    def finish(self, place: int, unihash: str) -> None:
        """One of them is stored; with the last one, all are."""
        self._unihashes[place] = bytes.fromhex(unihash)
        self._left -= 1
        if not self._left and not self._future.done():  # a caller whose client went away has cancelled it
            self._future.set_result(self._unihashes)

    def fail(self, error: BaseException) -> None:
        """One of them failed; the others go on, but nobody waits for them."""
        if not self._future.done():
            self._future.set_exception(error)
