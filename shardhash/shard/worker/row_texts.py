"""The siginfo of rows that are asked for: a short one is read at once, a long one is unpacked beside the event loop."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable
from typing import NamedTuple

from shardhash.shard.storage.recovery import AnyShard
from shardhash.shard.storage.siginfo import unpack_long_siginfo
from shardhash.wire.rows import SIGINFO, Columns

SHORT = 64 * 1024
"""Bytes of a text that is unpacked at once; 0.3 ms. How it is packed does not tell: eight megabytes may take 8 KiB."""


class Packed(NamedTuple):
    """A long text that is still to be unpacked."""

    reference: int
    data: bytes


class RowTexts:
    """Reads the texts of rows of a shard. Use from one event loop."""

    def __init__(self, shard: AnyShard) -> None:
        self._shard = shard

    def begin(self, reference: int) -> str | Packed | None:
        """A text if it is short, else what `finish` makes it of; None for 0. Raises DamageError."""
        data = self._shard.get_packed_siginfo(reference)
        if data is None:
            return None
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(data, SHORT)
            return text.decode("utf-8", "surrogatepass") if unpacker.eof else Packed(reference, data)
        except (zlib.error, UnicodeDecodeError):
            raise self._shard.damaged_siginfo(reference) from None

    def whole(self, row: Columns) -> Columns | Awaitable[Columns]:
        """A row that was made with `begin`, now or later."""
        return self.finish(row) if isinstance(row[SIGINFO], Packed) else row

    async def finish(self, row: Columns) -> Columns:
        """The same."""
        packed = row[SIGINFO]
        if isinstance(packed, Packed):
            loop = asyncio.get_running_loop()
            row[SIGINFO] = await loop.run_in_executor(None, unpack_long_siginfo, packed.data)
            if row[SIGINFO] is None:
                raise self._shard.damaged_siginfo(packed.reference)
        return row
