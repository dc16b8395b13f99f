"""Events: what the state machine of a connection makes of its input, for a session to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from shardhash.errors import InvalidRequestError
from shardhash.wire import batch
from shardhash.wire.commands import Command
from shardhash.wire.messages import Request


@dataclass(frozen=True, slots=True)
class Send:
    """Write this: bytes as they are to a line transport; one text message, without newline, to a WebSocket."""

    data: bytes


@dataclass(slots=True)  # frozen ones take 0.6 us more to make
class Asked:
    """A request to answer; `size` is what it took on the wire, bytes."""

    command: Command
    request: Request
    size: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BatchAsked:
    """A binary request to answer by a binary message."""

    batch: batch.Batch


@dataclass(frozen=True, slots=True)
class StreamLines:
    """Lines of a stream mode, in order, each ended by a newline, not looked at yet (see wire/streams.py).

    They stay one text, because splitting it would cost more than everything else that is done with a line here.
    """

    command: Command
    text: bytes
    count: int
    """How many lines it has."""

    @property
    def lines(self) -> list[bytes]:
        """The lines, without their newlines."""
        return self.text.split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The stream mode ends; answer ``ok``, bare, once its lines are answered."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer an ``invoke-error`` once everything before it is answered, then close."""

    error: InvalidRequestError


@dataclass(frozen=True, slots=True)
class Ended:
    """Close without an answer to this, once everything before it is answered. `reason` is for the log.

    `limit` is a word for the limit that the peer went over, "" for none.
    """

    reason: str
    limit: str = field(default="", compare=False)


Event: TypeAlias = Send | Asked | BatchAsked | StreamLines | StreamEnd | Refused | Ended
