"""A request that comes in a part at a time: a short one is parsed at its end, a long one before (long_message.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardhash.wire import jsontext
from shardhash.wire.commands import MOST_SMALL, Command, check_large
from shardhash.wire.framing import ChunkAssembler, check_values
from shardhash.wire.limits import Limits
from shardhash.wire.long_message import LongMessage

_BEGIN = 100
"""Bytes of a request that hold the name of its command."""


class Incoming:
    """One request."""

    def __init__(self, commands: Mapping[str, Command], limits: Limits) -> None:
        self._commands = commands
        self._limits = limits
        self._short = ChunkAssembler(limits.message)
        self._long: LongMessage | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._short.size if self._long is None else self._long.size

    def add(self, part: bytes) -> None:
        """Take some bytes.

        LimitError over a limit; InvalidRequestError for a request that must not be long, by how it begins, and for what
        is no JSON.
        """
        if self._long is not None:
            self._long.feed(part)
        elif self._short.size + len(part) <= MOST_SMALL:
            self._short.add(part)
            check_values(self._short.values, self._limits.values)
        else:
            begin = self._short.finish()
            check_large(self._commands, (begin + part[:_BEGIN])[:_BEGIN], self._limits.permissions)
            self._long = LongMessage(self._limits.message, self._limits.values)
            self._long.feed(begin)
            self._long.feed(part)

    def finish(self) -> Any:
        """The JSON value. InvalidRequestError when there is none."""
        return jsontext.decode(self._short.finish()) if self._long is None else self._long.finish()
