"""What a connection asked and was not answered yet: events, and what they weigh."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shardhash.coordinator.weights import KIB, lines_weight, weight_of
from shardhash.wire.events import Event, StreamLines


class Pending:
    """The events that wait, in order. One that is being answered waits no more, but weighs until it is `done`."""

    __slots__ = ("_weight", "events", "held")

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.held = 0
        """Bytes of what is not answered."""
        self._weight = 0

    @property
    def count(self) -> int:
        """Requests, stream lines and batches that are not answered, and one more for each KiB of them."""
        return self._weight // KIB

    def is_busy(self) -> bool:
        """Whether anything is not answered."""
        return self._weight > 0

    def feed(self, events: Sequence[Event]) -> None:
        """These wait behind the others."""
        self.events.extend(events)
        for event in events:
            if type(event) is StreamLines:
                self._weight += lines_weight(event.count, len(event.text))
                self.held += len(event.text)
            else:
                self.begin(event)

    def begin(self, event: Event) -> None:
        """An event that is no block of lines is answered without waiting."""
        weight = weight_of(event)
        self._weight += weight
        self.held += weight

    def done(self, event: Event) -> None:
        """It is answered."""
        weight = weight_of(event)
        self._weight -= weight
        self.held -= weight

    def done_lines(self, block: StreamLines) -> None:
        """A block of lines is answered, however it was fed."""
        self._weight -= lines_weight(block.count, len(block.text))
        self.held -= len(block.text)
