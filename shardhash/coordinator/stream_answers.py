"""The answers to blocks of stream lines of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from shardhash.base.turns import Slice
from shardhash.coordinator import audit
from shardhash.coordinator.blocks import lookup_block
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.services import Services
from shardhash.errors import InvokeError, ProtocolError, ServerFaultError
from shardhash.wire import streams
from shardhash.wire.events import StreamLines
from shardhash.wire.hashes import DIGEST_SIZE
from shardhash.wire.streams import LookupBlock

BULK_TEXT = 64 * 1024
"""Bytes of a block from which on few blocks of all connections are looked up at one time: a thousand builders that ask
9000 lookups each would else be one question to the workers. The largest wave of a world build is 60 KiB."""
SHORT_LINE = 2 * DIGEST_SIZE + 1
"""Bytes of a line with a hash. Shorter ones are none of real traffic, and take the slow way, so..."""
SHORT_LINES = 1000
"""...so many of them are answered at once; 2 ms. So many lines of marks, which are JSON, are parsed at once; 2 ms."""
MOST_AT_HAND = 192 * 1024
"""Bytes of stream lines that are looked for at hand: some 2,000, 1 ms."""


class StreamAnswers:
    """Answers blocks of lines. `turn`: the time slice of the session; `is_gone`: whether its client has left."""

    def __init__(self, services: Services, caller: Caller, turn: Slice, is_gone: Callable[[], bool]) -> None:
        self._store = services.store
        self._counters = services.counters
        self._caller = caller
        self._slice = turn
        self._is_gone = is_gone
        self._bulk = services.bulk
        self.scans = False
        """Whether it set marks that look at every mapping, which is of no use without its client."""
        self._marks = (0, 0)
        """Marks of the gc-mark-stream that is open, and the mappings that they were set on."""
        self._marking = asyncio.Lock()
        self._parsed: tuple[bytes, LookupBlock] | None = None
        """The block that `at_hand` could not answer, already parsed."""

    def let_go(self) -> None:
        """The session is over: forget it."""
        self._is_gone = bool
        self._parsed = None

    def at_hand(self, event: StreamLines) -> bytes | None:
        """The answers to a short block of get-stream, if all are at hand and the caller may ask; else None.

        Only of lines as real traffic has them: others take a hundred times as long to parse.
        """
        if len(event.text) > MOST_AT_HAND or not self._caller.identity.may(event.command.needs):
            return None
        try:
            block = streams.parse_plain_get_lines(event.text)
        except ProtocolError:  # `answer` tells it
            return None
        if block is None:
            return None
        (group,) = block.groups
        assert isinstance(group.hashes, bytes)
        found = self._store.find(group.method, group.hashes)
        if found is None:
            self._parsed = (event.text, block)  # a third of the text more, until it is answered
            return None
        return streams.encode_found_lines(self._counters.looked_up(found, self._caller.build))

    async def answer(self, block: StreamLines) -> bytes:
        """The answers to a block of lines, each ended by a newline. ProtocolError when there are none."""
        stream, text = block.command.name, block.text
        if len(text) > BULK_TEXT and stream != "gc-mark-stream" and not self._store.remote:
            async with self._bulk:
                if self._is_gone():
                    raise ConnectionResetError("the client left")
                return await self._answers_in_parts(stream, text, block.count)
        return await self._answers_in_parts(stream, text, block.count)

    async def _answers_in_parts(self, stream: str, text: bytes, count: int) -> bytes:
        if count <= SHORT_LINES or (count <= len(text) // SHORT_LINE and self._is_plain(stream, text)):
            return await self._answer_at_once(stream, text)
        answers = []
        for part in _parts(text):
            answers.append(await self._answer_at_once(stream, part))
            if self._slice.used:
                await self._slice.turn()
        return b"".join(answers)

    async def _answer_at_once(self, stream: str, text: bytes) -> bytes:
        try:
            if stream == "get-stream":
                found = await lookup_block(self._store, self._parse_get_lines(text))
                return streams.encode_found_lines(self._counters.looked_up(found, self._caller.build))
            if stream == "exists-stream":
                block = streams.parse_exists_lines(text)
                status = self._counters.looked_for(block.join(await self._store.exists(block.digests)))
                return streams.encode_exists_lines(status)
            async with self._marking:  # blocks are set in the order in which they came
                marks = await self._parse_mark_lines(text)
            if self.scans and self._caller.gone():
                raise ConnectionResetError("the client left")
            counts = await self._store.gc_mark(marks)
            self._marks = (self._marks[0] + len(counts), self._marks[1] + sum(counts))
            return streams.encode_mark_lines(counts)
        except (InvokeError, ServerFaultError) as error:
            # A client takes every line here for a hash: nothing can be said in-band.
            raise ProtocolError(f"in {stream}: {error}") from None

    def _is_plain(self, stream: str, text: bytes) -> bool:
        """Whether long lines may be parsed together: lookups that are not of real traffic take 3 us each, not 0.08."""
        if stream != "get-stream" or (self._parsed is not None and self._parsed[0] is text):
            return True
        block = streams.parse_plain_get_lines(text)
        self._parsed = None if block is None else (text, block)
        return block is not None

    def _parse_get_lines(self, text: bytes) -> LookupBlock:
        parsed, self._parsed = self._parsed, None
        return parsed[1] if parsed is not None and parsed[0] is text else streams.parse_get_lines(text)

    async def _parse_mark_lines(self, text: bytes) -> list[streams.Mark]:
        marks: list[streams.Mark] = []
        for part in _parts(text):
            await self._slice.renew()
            some = streams.parse_mark_lines(part)
            self.scans = self.scans or not all("unihash" in where or "taskhash" in where for _, where in some)
            marks += some
        await self._slice.renew()
        return marks

    def record_marks(self) -> None:
        """One line of the audit trail for a gc-mark-stream, which has a line for each hash of a cache."""
        marks, rows = self._marks
        if marks:
            self._marks = (0, 0)
            audit.record(self._caller, "gc-mark-stream", marks=marks, rows=rows)


def _parts(text: bytes) -> Iterator[bytes]:
    """Lines, each with its newline, so many at a time."""
    while text:
        lines = text.split(b"\n", SHORT_LINES)
        text = lines.pop()
        yield b"\n".join((*lines, b""))
