"""One connection to a server, from the handshake to its end: commands, stream modes, batches. No retries.

::

    handshake --> command mode <--> stream mode of one command
                       |                  |
                       +----> useless <---+

Methods enter the mode that they need by themselves, and stay in it: a build that only looks up stays in get-stream.
After any exception, cancellation included, the connection is useless (answers to what was sent may still arrive): the
owner aborts it. Exceptions are InvokeError for what the server refused (it closes then), OSError for what the
network did, ProtocolError for what the server must not send.

Native batches (wire/batch.py) are asked for by ``needs-headers: true``. Servers of BitBake 2.8 and later have no
headers to answer with, just the empty line, and get streams instead. Older ones do not answer: SilentHeadersError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardhash.client import json_text
from shardhash.client.byte_stream import in_turn
from shardhash.client.questions import DigestQuestion, Question
from shardhash.client.reports import ReportList
from shardhash.client.transport import MESSAGE_LIMIT, Transport
from shardhash.errors import (
    InvalidRequestError,
    InvokeError,
    LimitError,
    ProtocolError,
    SilentHeadersError,
    WrongKindError,
)
from shardhash.wire.batch import OFFER, REPORTS_OFFER
from shardhash.wire.framing import check_values

GREETING = "OEHASHEQUIV 1.1"
HEADERS_WITHIN = 0.8
"""Seconds that a server gets to answer with its headers. A slow server taken for an old one loses only speed."""
HEADER_LIMIT = 64
"""Most header lines that a server may send..."""
HEADER_SIZE = 16 * 1024
"""...and most characters of them."""
MOST_VALUES = 2_000_000
"""Most JSON values of an answer, about: the smallest take thirty times their text in memory."""
BLOCK = 16384
"""Hashes in one request of a native batch: half a MiB of digests."""
JSON_BLOCK = 5000
"""Hashes, of up to 128 digits, in one of its JSON form, which has at most 768 KiB."""
LINE_BLOCK = 1000
"""Stream lines in one write: their answers fit into the socket's buffer, so nobody need read them meanwhile."""
_REFUSAL = b'{"invoke-error"'


class Connection:
    """A connection that has said hello. `block` is the number of hashes in one native request."""

    def __init__(self, transport: Transport, block: int = BLOCK) -> None:
        self._transport = transport
        self._block = block
        self._json_block = min(block, JSON_BLOCK)
        self._mode: str | None = None
        self.offers: dict[str, str] = {}
        """The server's headers, tags in lower case."""

    @classmethod
    async def open(cls, transport: Transport, *, native: bool, block: int = BLOCK) -> Connection:
        """Shake hands. With `native`, ask what the server offers: one round trip.

        Raises SilentHeadersError when the server does not tell; try again without `native` then.
        """
        connection = cls(transport, block)
        await transport.send_lines([GREETING, f"needs-headers: {'true' if native else 'false'}", ""])
        if native:
            await connection._receive_headers()
        return connection

    async def _receive_headers(self) -> None:
        size = 0
        for number in range(HEADER_LIMIT + 1):
            line = await (self._receive_line() if number else self._receive_first_header())
            if not line:
                return
            size += len(line)
            if size > HEADER_SIZE:
                raise ProtocolError(f"the server's headers are longer than {HEADER_SIZE} characters")
            tag, colon, value = line.partition(":")
            if not colon:
                _check_kind(line.encode())
                raise ProtocolError(f"the server sent {line!r} where a header line is expected")
            self.offers[tag.strip().lower()] = value.strip()
        raise ProtocolError(f"the server sent more than {HEADER_LIMIT} header lines")

    async def _receive_first_header(self) -> str:
        try:
            return _text(await self._transport.receive_line_within(HEADERS_WITHIN))
        except TimeoutError:
            raise SilentHeadersError("the server does not answer with its headers") from None

    @property
    def native(self) -> bool:
        """Whether the server offers native batches."""
        return self._offered(OFFER)

    def _offered(self, offer: tuple[str, str]) -> bool:
        name, version = offer
        return self.offers.get(name) == version

    async def invoke(self, request: object) -> Any:
        """The answer to one command, such as ``{"ping": {}}``."""
        await self._enter(None)
        await self._transport.send_message(json_text.encode(request))
        return await self._receive_answer()

    async def invoke_for_row(self, request: object) -> Any:
        """The same of an answer that is a row: an outhash_siginfo of megabytes is read in parts, and a LongText."""
        from shardhash.wire.long_message import LongMessage  # few need it

        await self._enter(None)
        await self._transport.send_message(json_text.encode(request))
        message = LongMessage(MESSAGE_LIMIT, MOST_VALUES)
        try:
            await self._transport.receive_parts(message.feed)
            answer = message.finish()
        except InvalidRequestError as error:
            raise ProtocolError(f"the server sent a message that cannot be read: {error}") from None
        return _checked(answer)

    async def report(self, reports: ReportList) -> None:
        """Complete reports, in batches if the server takes them. What came before a failure is kept in them."""
        await self._enter(None)
        batched = self._offered(REPORTS_OFFER)
        requests = reports.requests(batched=batched)

        async def send() -> None:
            for start, end in requests:
                if reports.long(start, end):
                    await self._transport.send_pieces(reports.pieces(start, end, batched=batched))
                else:
                    await self._transport.send_message(reports.encode(start, end, batched=batched))

        async def receive() -> None:
            for start, end in requests:
                reports.take_answer(await self._receive_answer(), end - start, batched=batched)

        await (self._transport.exchange if len(requests) > 1 else in_turn)(send(), receive())

    async def stream(self, command: str, lines: Sequence[str], answers: list[bytes]) -> None:
        """Send lines in a command's stream mode, and append an answer for each to `answers`.

        When it fails, `answers` holds what had arrived. Many lines go out in blocks while answers come in.
        """
        await self._enter(command)
        try:
            receiving = self._transport.receive_lines(answers, len(answers) + len(lines))
            if len(lines) <= LINE_BLOCK:
                await in_turn(self._transport.send_lines(lines), receiving)
            else:
                await self._transport.exchange(self._send_blocks(lines), receiving)
        finally:
            # A refusal takes the place of an answer, and the server hangs up behind it.
            if answers and answers[-1].startswith(_REFUSAL):
                _unwrap(answers.pop())

    async def _send_blocks(self, lines: Sequence[str]) -> None:
        for start in range(0, len(lines), LINE_BLOCK):
            await self._transport.send_lines(lines[start : start + LINE_BLOCK])

    async def ask(self, question: Question) -> None:
        """Complete a question, in the best form that the server takes. What came before a failure is kept in it."""
        if question.complete:
            return
        if not self.native:
            await self._ask_stream(question)
            return
        if self._mode is not None:
            await self._enter(None)
        left = question.size - question.done
        if not isinstance(question, DigestQuestion) or not self._transport.binary:
            exchange = in_turn if left <= self._json_block else self._transport.exchange
            await exchange(self._send_messages(question), self._receive_answers(question))
        elif left > self._block:
            await self._transport.exchange(self._send_frames(question), self._receive_frames(question))
        else:
            await self._transport.send_frame(question.frame())
            question.take_frame(_checked_frame(await self._transport.receive_frame()), left)

    async def _ask_stream(self, question: Question) -> None:
        answers: list[bytes] = []
        try:
            await self.stream(question.stream, question.lines(), answers)
        finally:
            question.take_lines(answers)

    async def _send_frames(self, question: DigestQuestion) -> None:
        for frame in question.frames(self._block):
            await self._transport.send_frame(frame)

    async def _receive_frames(self, question: DigestQuestion) -> None:
        for count in question.block_sizes(self._block):
            question.take_frame(_checked_frame(await self._transport.receive_frame()), count)

    async def _send_messages(self, question: Question) -> None:
        for message in question.messages(self._json_block):
            await self._transport.send_message(message)

    async def _receive_answers(self, question: Question) -> None:
        for count in question.block_sizes(self._json_block):
            question.take_answer(await self._receive_answer(), count)

    async def _enter(self, mode: str | None) -> None:
        """Enter the stream mode of a command, or (None) command mode.

        The answer is awaited before lines follow: a server that refuses the mode closes, and lines under way to it
        would make its kernel throw the refusal away.
        """
        if self._mode == mode:
            return
        if self._mode is not None:
            await self._transport.send_lines(["END"])
            if (line := await self._receive_line()) != "ok":
                raise ProtocolError(f"the server answered END by {line!r}; expected 'ok'")
            self._mode = None
        if mode is not None:
            await self._transport.send_message(json_text.encode({mode: None}))
            if (answer := await self._receive_answer()) != "ok":
                raise ProtocolError(f"the server answered {mode} by {answer!r}; expected 'ok'")
            self._mode = mode

    async def _receive_line(self) -> str:
        lines: list[bytes] = []
        await self._transport.receive_lines(lines, 1)
        return _text(lines[0])

    async def _receive_answer(self) -> Any:
        return _unwrap(await self._transport.receive_message())

    async def close(self) -> None:
        """Leave in good order. Not after a failure."""
        await self._transport.close()

    async def abort(self) -> None:
        """Close at once."""
        await self._transport.abort()


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ProtocolError("the server sent a line that is not UTF-8") from None


def _check_kind(answer: bytes) -> None:
    """Raise WrongKindError for an answer that is HTTP, as listeners of WebSockets give it to lines."""
    if answer.startswith(b"HTTP/"):
        raise WrongKindError("the server answers by HTTP, so perhaps this address speaks WebSocket")


def _checked_frame(message: bytes) -> bytes:
    """A batch answer. Raises InvokeError if it is a refusal, which is JSON; a batch answer starts with its version."""
    if message.startswith(b"{"):
        _unwrap(message)
    return message


def _unwrap(message: bytes) -> Any:
    """The value of an answer. Raises InvokeError if it is a refusal, ProtocolError if it is not JSON."""
    try:
        if len(message) > MOST_VALUES:
            check_values(message, MOST_VALUES)
        answer = json_text.decode(message)
    except LimitError:
        raise ProtocolError(f"the server sent more than {MOST_VALUES} JSON values in a message") from None
    except ValueError as error:
        _check_kind(message)
        raise ProtocolError(f"the server sent a message that is not JSON: {error}") from None
    return _checked(answer)


def _checked(answer: Any) -> Any:
    """An answer that is no refusal."""
    if isinstance(answer, dict) and isinstance(refusal := answer.get("invoke-error"), dict):
        raise InvokeError(str(refusal.get("message", "refused without a reason")))
    return answer
