"""Limits of one connection, which its state machine holds."""

from __future__ import annotations

from dataclasses import dataclass

from shardhash.wire.framing import DEFAULT_LINE_LIMIT
from shardhash.wire.values import MAX_TEXT


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may make the server hold, in bytes unless said.

    `line` holds for lines and for each message of a handshake or stream; `message` for a request, chunked or not;
    `values` for the JSON values in it, about, because the smallest take thirty times their text in memory;
    `detail` for the characters of each detail of a report, the rest of which is cut off;
    `permissions` are those that long requests are judged by before they are parsed, None for any;
    `headers` is the number of header lines and `header_bytes` their sum; `batch` the hashes in a native batch.
    `pipelined` is for the listener: it stops reading while this many stream lines or requests wait for answers; each
    KiB of them counts as one more.
    """

    line: int = DEFAULT_LINE_LIMIT
    message: int = 64 * 1024 * 1024
    values: int = 2_000_000
    batch: int = 1_000_000
    detail: int = MAX_TEXT
    permissions: frozenset[str] | None = None
    headers: int = 64
    header_bytes: int = 16 * 1024
    pipelined: int = 100_000
