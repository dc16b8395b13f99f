"""A request that comes in a part at a time: a short one is parsed at its end, a long one before (long_message.py).

What is left to do at its end is done in steps, none of which takes more than some milliseconds: its JSON, then the
fields of some of its rows after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardhash.wire import jsontext
from shardhash.wire.commands import MOST_SMALL, Command, Steps, begin_request, check_large
from shardhash.wire.framing import ChunkAssembler, check_values, count_signs
from shardhash.wire.limits import Limits
from shardhash.wire.long_message import LongMessage
from shardhash.wire.messages import Request

_BEGIN = 100
"""Bytes of a request that hold the name of its command."""
IN_ONE_STEP = 64 * 1024
"""Bytes of a request that is read in one step; 1 ms."""


class Incoming:
    """One request."""

    def __init__(self, commands: Mapping[str, Command], limits: Limits) -> None:
        self._commands = commands
        self._limits = limits
        self._short = ChunkAssembler(limits.message)
        self._long: LongMessage | None = None
        self._signs = 0
        self._next_check = limits.values
        """Signs of values, of which some may be in texts, from which on these are counted. So it is done some times."""
        self.message: Any = None
        """The JSON value, from the first step on."""
        self.asked: tuple[Command, Request] | None = None
        """The command, if it is known, and the request, from the last step on."""
        self._begun: tuple[Command, Steps] | None = None

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
            self._signs += count_signs(part)
            if self._signs > self._next_check:
                self._next_check = 2 * self._signs
                check_values(self._short.finish(), self._limits.values)
        else:
            begin = self._short.finish()
            check_large(self._commands, (begin + part[:_BEGIN])[:_BEGIN], self._limits.permissions)
            self._long = LongMessage(self._limits.message, self._limits.values)
            self._long.feed(begin)
            self._long.feed(part)

    def read_on(self) -> bool:
        """Take a step of reading the request, all of which is here; whether it was the last. InvalidRequestError."""
        if self.message is None:
            self.message = self._finish_short() if self._long is None else self._long.finish()
            self._begun = begin_request(self._commands, self.message)
            if self.size > IN_ONE_STEP:
                return False
        if self._begun is None:
            return True
        command, steps = self._begun
        try:
            next(steps)
            while self.size <= IN_ONE_STEP:
                next(steps)
        except StopIteration as end:
            self.asked = command, end.value
            return True
        return False

    def _finish_short(self) -> Any:
        text = self._short.finish()
        check_values(text, self._limits.values)
        return jsontext.decode(text)
