"""The weight of a waiting event, for back-pressure, and how many requests it counts as in the statistics."""

from __future__ import annotations

from collections import deque

from shardhash.wire.events import Asked, BatchAsked, Event, StreamLines
from shardhash.wire.imports import ImportBatch
from shardhash.wire.messages import ExistsBatch, GetBatch, ReportBatch

KIB = 1024
BATCHES = frozenset(("get-batch", "exists-batch", "report-batch"))
"""JSON messages that hold many hashes or reports."""
ROWS = frozenset(("get", "get-outhash"))
"""Questions whose answers may hold a siginfo."""
BLOCK_SIZE = 1 << 20
"""Bytes of stream lines from which on no more are taken into a block: 1 ms for those of real traffic."""


def weight_of(event: Event) -> int:
    """The weight of an event other than StreamLines: 1 KiB, and its bytes."""
    if isinstance(event, Asked):
        return KIB + event.size
    return KIB + len(event.batch.digests) if isinstance(event, BatchAsked) else KIB


def questions(event: Asked) -> int:
    """How many questions or reports a message holds, one at least; each counts as a request in the statistics."""
    match event.request:
        case GetBatch(taskhashes=items) | ExistsBatch(unihashes=items) | ReportBatch(reports=items):
            return len(items) or 1
        case ImportBatch(mappings=mappings, rows=rows):
            return len(mappings) + len(rows) or 1
        case _:
            return 1


def lines_weight(count: int, size: int) -> int:
    """The weight of so many stream lines and bytes. It is the same however they are cut into blocks."""
    return count * KIB + size


def take_block(event: StreamLines, events: deque[Event]) -> StreamLines:
    """An event, and those of its stream mode that follow at once, as one; `events` is what follows."""
    if not events or type(events[0]) is not StreamLines:
        return event
    texts, size, count = [event.text], len(event.text), event.count
    while size < BLOCK_SIZE and events and isinstance(following := events[0], StreamLines):
        texts.append(following.text)
        size += len(following.text)
        count += following.count
        events.popleft()
    return StreamLines(event.command, b"".join(texts), count)
