"""The server's side of one connection, as a pure state machine: bytes or messages in, events out.

No socket, no clock: the listener feeds what arrives and writes what `Send` events hold; the session answers what is
asked, in order. However the bytes are cut, the events are the same, but for where a block of stream lines ends.

=========  =======================  =====================================================================
state      input                    what happens
=========  =======================  =====================================================================
PROTOCOL   ``OEHASHEQUIV 1.1``      HEADERS
           any other line           CLOSED: Ended
HEADERS    ``tag: value``           kept if known; Ended over the limit, or without a colon
           empty line               Send of the server's headers if they were asked for; COMMAND
COMMAND    a JSON request           Asked; STREAM if the command opens one, else COMMAND
           ``{"chunk-stream": _}``  PIECES (line transports only)
           malformed                Refused; CLOSED
           unknown command          Ended; CLOSED (clients probe for features this way)
           a binary message         BatchAsked (WebSocket only, if batches were offered and headers asked for)
PIECES     a piece                  kept; Ended over a limit; Refused as soon as it shows that it must not be long
           empty line               the joined pieces, as in COMMAND
STREAM     ``END``, an empty line   StreamEnd; COMMAND
           other lines              StreamLines, as long a block as has arrived
CLOSED     anything                 ignored
=========  =======================  =====================================================================

The machine enters STREAM as soon as it has read the command, because clients pipeline. If the session refuses the
command, it closes the connection, and what the machine made of the lines behind it does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from shardhash.errors import InvalidRequestError, LimitError, ProtocolError
from shardhash.wire import batch, framing, jsontext
from shardhash.wire.commands import COMMANDS, MOST_SMALL, Command, cut_details, describe_unknown, parse_request
from shardhash.wire.events import Asked, BatchAsked, Ended, Event, Refused, Send, StreamEnd, StreamLines
from shardhash.wire.framing import CHUNK_STREAM, LineBuffer, check_values, encode_text, find_lines_end
from shardhash.wire.incoming import IN_ONE_STEP, Incoming
from shardhash.wire.limits import Limits
from shardhash.wire.messages import Request

PROTOCOL = ("OEHASHEQUIV", "1.1")
"""The first line, its words."""
NEEDS_HEADERS = "needs-headers"
"""The header by which a client asks for the server's headers."""

_END = b"END"
_END_LINE = _END + b"\n"


class _State(Enum):
    PROTOCOL = auto()
    HEADERS = auto()
    COMMAND = auto()
    PIECES = auto()
    STREAM = auto()
    CLOSED = auto()


class ServerConnection:
    """One connection. `lines` is true for raw transports (`receive_data`), false for WebSockets (`receive_messages`).

    `commands` are those that the server knows; `offers` are its headers, told to clients that ask for them.
    Nothing that a peer sends makes a receive method raise: it gives events, the last of them Refused or Ended.
    """

    def __init__(
        self,
        commands: Mapping[str, Command] = COMMANDS,
        limits: Limits | None = None,
        offers: Sequence[tuple[str, str]] = (batch.OFFER, batch.REPORTS_OFFER, batch.GUESSES_OFFER),
        lines: bool = True,
        at_once: int | None = None,
    ) -> None:
        """`at_once`: lines that are parsed in one call of `receive_data`, stream lines aside; see `more`."""
        self._commands = commands
        self.limits = limits or Limits()
        """They may change, for what comes in from then on."""
        self._at_once = at_once
        self._offers = tuple(offers)
        self._lines = lines
        self._buffer = LineBuffer(self.limits.line)
        self._incoming: Incoming | None = None
        """A request in pieces, or a long message."""
        self._reading = False
        """Whether all of it is here."""
        self._headers = self._header_bytes = 0
        self._wants_headers = False
        self._stream: Command | None = None
        self._state = _State.PROTOCOL
        self._events: list[Event] = []
        self._text, self._start = b"", 0
        self._block: list[bytes] = []
        """Stream lines of WebSocket messages that belong behind `_events`."""

    @property
    def closed(self) -> bool:
        """Whether Refused or Ended was given; all further input is ignored."""
        return self._state is _State.CLOSED

    @property
    def greeted(self) -> bool:
        """Whether the handshake is over."""
        return self._state not in (_State.PROTOCOL, _State.HEADERS)

    @property
    def more(self) -> bool:
        """Whether lines, or a long message, that came in are not parsed yet; `receive_data` of nothing goes on."""
        return (self._start < len(self._text) or self._reading) and not self.closed

    @property
    def held(self) -> int:
        """Bytes received that have not made an event yet."""
        incoming = 0 if self._incoming is None else self._incoming.size
        return self._buffer.size + incoming + len(self._text) - self._start

    def discard(self) -> None:
        """The connection is over: forget what came in. All further input is ignored."""
        self._state = _State.CLOSED
        self._forget()
        self._buffer = LineBuffer(self.limits.line)

    def _forget(self) -> None:
        self._text, self._start, self._incoming, self._reading = b"", 0, None, False

    def receive_data(self, data: bytes) -> list[Event]:
        """The events of some bytes of a line transport."""
        if self.closed:
            return []
        try:
            if self._state is _State.COMMAND and not self._text and self._lines and self._buffer.is_line(data):
                self._receive_request(data[:-1])  # as nearly always; 2 us less
                return self._take_events()
            if data:
                text = self._buffer.feed(data)
                self._text = self._text[self._start :] + text if self.more else text
                self._start = 0
            if self._lines:
                self._receive_text()
            else:
                self._receive_part()
            if self._buffer.overrun and not self.more:
                self._end(f"a line is longer than {self.limits.line} bytes", "line")
        except ProtocolError as error:
            self._end(str(error), _limit_of(error))
        return self._take_events()

    def receive_texts(self, texts: Iterable[bytes]) -> list[Event]:
        """The events of text messages of a WebSocket; a long request comes alone, done once there is no `more`."""
        try:
            for text in texts:
                if not self.closed:
                    self._receive_text_message(text)
        except ProtocolError as error:
            self._end(str(error), _limit_of(error))
        return self._take_events()

    def receive_messages(self, messages: Sequence[str | bytes]) -> list[Event]:
        """The events of some WebSocket messages; consecutive stream lines come as one block."""
        try:
            for message in messages:
                if not self.closed:
                    self._receive_message(message)
                while self.more:
                    self._receive_part()
        except ProtocolError as error:
            self._end(str(error), _limit_of(error))
        return self._take_events()

    def receive_batch(self, message: bytes) -> batch.Batch | None:
        """The batch of a binary message; half as long as `receive_messages`, which is to have it if this is None."""
        try:
            return None if self.closed else self._batch_of(message)
        except (ProtocolError, InvalidRequestError):
            return None

    def _take_events(self) -> list[Event]:
        self._close_block()
        if self._state is _State.CLOSED:
            self._forget()
        events, self._events = self._events, []
        return events

    def _emit(self, event: Event) -> None:
        self._close_block()
        self._events.append(event)

    def _close_block(self) -> None:
        if self._block:
            assert self._stream is not None
            self._events.append(StreamLines(self._stream, b"".join(self._block), len(self._block)))
            self._block.clear()

    def _end(self, reason: str, limit: str = "") -> None:
        # A stream line over the limit may follow an Ended in the same data; the first reason stands.
        if not self.closed:
            self._state = _State.CLOSED
            self._emit(Ended(reason, limit))

    def _refuse(self, error: InvalidRequestError) -> None:
        # Its frames and what caused it hold the message, and the connection is not freed soon.
        error.__traceback__ = error.__context__ = None
        self._state = _State.CLOSED
        self._emit(Refused(error))

    # What both kinds of transports have

    def _receive_text(self) -> None:
        """The whole lines of `_text`, each ended by a newline, from `_start` on; as many as may be parsed at once."""
        text, left = self._text, self._at_once or len(self._text)
        while (self._start < len(text) or self._reading) and not self.closed:
            if self._reading:
                self._read_on()
            elif self._state is _State.STREAM:
                self._start = self._receive_stream(text, self._start)
            elif self._state is _State.PIECES:
                self._start = self._receive_pieces(text, self._start)
            else:
                end = text.index(b"\n", self._start)
                line, self._start = text[self._start : end], end + 1
                self._receive_line(line)
            left -= 1
            if not left or (self._reading and self._at_once):
                return
        self._text, self._start = b"", 0

    def _receive_line(self, line: bytes) -> None:
        """One line, or one text message of a WebSocket, of any state but PIECES, STREAM and CLOSED."""
        match self._state:
            case _State.COMMAND:
                self._receive_request(line)
            case _State.HEADERS:
                self._receive_header(line)
            case _:
                self._receive_protocol(line)

    def _receive_protocol(self, line: bytes) -> None:
        if tuple(line.decode("utf-8", "replace").split()) != PROTOCOL:
            hint = "; browsers and ws:// clients need a --bind ws://HOST:PORT" if b" HTTP/1." in line else ""
            raise ProtocolError(f"the first line is {framing.shown(line)}, not {' '.join(PROTOCOL)!r}{hint}")
        self._state = _State.HEADERS

    def _receive_header(self, line: bytes) -> None:
        if not line:
            self._finish_headers()
            return
        self._headers += 1
        self._header_bytes += len(line)
        if self._headers > self.limits.headers or self._header_bytes > self.limits.header_bytes:
            text = f"more than {self.limits.headers} header lines or {self.limits.header_bytes} bytes"
            raise LimitError(text, "headers")
        tag, colon, value = line.decode("utf-8", "replace").partition(":")
        if not colon:
            raise ProtocolError(f"header line {framing.shown(line)} has no colon")
        if tag.strip().lower() == NEEDS_HEADERS:
            self._wants_headers = value.strip().lower() == "true"

    def _finish_headers(self) -> None:
        self._state = _State.COMMAND
        if not self._wants_headers:
            return
        headers = [f"{tag}: {value}".encode() for tag, value in self._offers]
        if self._lines:
            self._emit(Send(b"\n".join((*headers, b"", b""))))
        else:
            for header in (*headers, b""):
                self._emit(Send(header))

    def _receive_request(self, text: bytes) -> None:
        try:
            # Each value takes a byte or more, so the usual request passes without being counted. Pieces are counted.
            if len(text) > self.limits.values:
                check_values(text, self.limits.values)
            message = jsontext.decode(text)
            if self._lines and isinstance(message, dict) and CHUNK_STREAM in message:
                self._incoming = Incoming(self._commands, self.limits)
                self._state = _State.PIECES
                return
            asked = parse_request(self._commands, message)
        except InvalidRequestError as error:
            self._refuse(error)
            return
        self._ask(asked, message, len(text))

    def _ask(self, asked: tuple[Command, Request] | None, message: object, size: int) -> None:
        if asked is None:
            self._end(describe_unknown(self._commands, message))
            return
        command, request = asked
        if size > self.limits.detail:
            request = cut_details(request, self.limits.detail)
        self._emit(Asked(command, request, size))
        if command.stream:
            self._stream = command
            self._state = _State.STREAM

    def _receive_stream(self, text: bytes, start: int) -> int:
        """The lines from `start` up to END or an empty line as one block; where to go on. About 30 ns a line."""
        if text.startswith((_END_LINE, b"\n"), start):
            end = start
        else:
            end, count = find_lines_end(text, start, _END_LINE)
            assert self._stream is not None
            self._emit(StreamLines(self._stream, text[start:end], count))
        if end == len(text):
            return end
        self._end_stream()
        return text.index(b"\n", end) + 1

    def _receive_pieces(self, text: bytes, start: int) -> int:
        """The pieces from `start` up to an empty line, and the message if there is one; where to go on.

        Without a step for each piece: they may be of one byte.
        """
        end = start if text.startswith(b"\n", start) else text.find(b"\n\n", start) + 1 or len(text)
        self._add_part(text[start:end].replace(b"\n", b""), last=end < len(text))
        return end + 1 if end < len(text) else end

    def _add_part(self, part: bytes, *, last: bool) -> None:
        """Take a part of a request that comes in several, and the request once it is the last."""
        assert self._incoming is not None
        try:
            self._incoming.add(part)
        except InvalidRequestError as error:
            self._refuse(error)
        else:
            self._reading = last
            if last:
                self._read_on()

    def _read_on(self) -> None:
        """Read on in a request all of which is here."""
        assert self._incoming is not None
        try:
            self._reading = not self._incoming.read_on()
        except InvalidRequestError as error:
            self._refuse(error)
            return
        if not self._reading:
            done, self._incoming, self._state = self._incoming, None, _State.COMMAND
            self._ask(done.asked, done.message, done.size)

    def _end_stream(self) -> None:
        self._emit(StreamEnd())
        self._state = _State.COMMAND

    # What only WebSockets have

    def _receive_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._receive_text_message(encode_text(message))
            return
        try:
            self._emit(BatchAsked(self._batch_of(message)))
        except InvalidRequestError as error:
            self._refuse(error)

    def _receive_text_message(self, text: bytes) -> None:
        limit = self.limits.message if self._state is _State.COMMAND else self.limits.line
        if len(text) > limit:
            raise LimitError(f"a message is longer than {limit} bytes", "message")
        if self._state is _State.STREAM:
            self._receive_stream_message(text)
        elif self._state is _State.COMMAND and len(text) > IN_ONE_STEP:
            self._incoming = Incoming(self._commands, self.limits)
            self._text, self._start = text, 0
            self._receive_part()
        else:
            self._receive_line(text)

    def _receive_part(self) -> None:
        """Read on in a long message."""
        if self._reading:
            self._read_on()
            return
        start, self._start = self._start, self._start + MOST_SMALL
        part, last = self._text[start : self._start], self._start >= len(self._text)
        if last:
            self._text, self._start = b"", 0
        self._add_part(part, last=last)

    def _receive_stream_message(self, line: bytes) -> None:
        """One line, added to the block before it; about 300 ns, a tenth of what aiohttp takes for a message."""
        if line == _END or not line:
            self._end_stream()
        elif b"\n" in line:
            self._block.append(line.replace(b"\n", b" ") + b"\n")  # any white space splits a line
        else:
            self._block.append(line + b"\n")

    def _batch_of(self, frame: bytes) -> batch.Batch:
        offered = self._wants_headers and batch.OFFER in self._offers
        if self._state is not _State.COMMAND or not offered:
            raise ProtocolError("a binary message where text is expected")
        return batch.decode_limited_request(frame, self.limits)


def _limit_of(error: ProtocolError) -> str:
    return error.limit if isinstance(error, LimitError) else ""
