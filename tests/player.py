"""Plays a conformance transcript against running servers, over any transport.

A transcript (tests/conformance/NAME.jsonl) has an event a line, in the order in which it happened with the reference:

=============================================  ==================================================================
``{"open": C, "server": S}``                   connection C to the server of kind S is opened
``{"conn": C, "send": LINE}``                  the client sends LINE
``{"conn": C, "recv": LINE}``                  the server must send LINE; JSON objects are compared as JSON
``{"conn": C, "send_json": X}``, `recv_json`   the same for JSON with placeholders ``{"$": NAME}``
``{"conn": C, "eof": true}``                   the server must close C
``{"close": C}``                               the client closes C
=============================================  ==================================================================

``"chunked": true`` marks a message that line transports carry in chunks. Placeholder ``tokenK`` is bound where it is
first received, and must be the same from then on; the others match anything, ``id`` absence too. The order in
``columns`` is free.

Allowed to differ, as PROTOCOL says: a server may tell headers of its own to a client that asks for them, and a
malformed request may get an ``invoke-error`` before the close.

The transports here are the player's own, so that no mistake of ours can hide in both client and server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from shardhash.errors import InvalidRequestError
from shardhash.wire.commands import COMMANDS, parse_request
from shardhash.wire.jsontext import decode

CONFORMANCE = Path(__file__).parent / "conformance"
EVENT_LIMIT = 20.0
"""Seconds after which an event that does not come has failed; a wrong password takes one on purpose."""

_CHUNK_STREAM = '{"chunk-stream": null}'
_PIECE = 32767


class MismatchError(AssertionError):
    """A server said something else than the transcript; the text says where, what was due and what came."""


class Channel(Protocol):
    """A connection that carries lines, or messages."""

    async def send(self, text: str, chunked: bool) -> None:
        """Send a line or message; a peer that has closed is no error here, `receive` tells it."""

    async def receive(self, chunked: bool) -> str | None:
        """A line or message; None when the peer has closed."""

    async def close(self) -> None:
        """Close it."""


class LineChannel:
    """A channel over TCP or a unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str) -> LineChannel:
        """Connect to ``unix://PATH``, ``HOST:PORT`` or ``[V6]:PORT``."""
        if address.startswith("unix://"):
            return cls(*await asyncio.open_unix_connection(address.removeprefix("unix://")))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port)))

    async def send(self, text: str, chunked: bool) -> None:
        lines = [text]
        if chunked:
            pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
            lines = [_CHUNK_STREAM, *pieces, ""]
        try:
            self._writer.write("".join(line + "\n" for line in lines).encode())
            await self._writer.drain()
        except ConnectionError:
            pass

    async def receive(self, chunked: bool) -> str | None:
        line = await self._read_line()
        if not chunked or line is None:
            return line
        if line != _CHUNK_STREAM:
            raise MismatchError(f"not in chunks: {_short(line)}")
        pieces = []
        while piece := await self._read_line():
            if len(piece) > _PIECE:
                raise MismatchError(f"a piece of {len(piece)} characters")
            pieces.append(piece)
        return "".join(pieces)

    async def _read_line(self) -> str | None:
        try:
            line = await self._reader.readline()  # its limit of 64 KiB is that of stock clients
        except ConnectionError:
            return None
        if line and not line.endswith(b"\n"):
            raise MismatchError(f"half a line before the close: {_short(line.decode())}")
        return line.decode()[:-1] if line else None

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass


class MessageChannel:
    """A channel over a WebSocket."""

    def __init__(self, session: aiohttp.ClientSession, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._websocket = websocket

    @classmethod
    async def connect(cls, address: str) -> MessageChannel:
        """Connect to ``ws://HOST:PORT[/path]``."""
        session = aiohttp.ClientSession()
        try:
            # As stock clients: compression is offered, and messages may have 1 MiB.
            return cls(session, await session.ws_connect(address, compress=15, max_msg_size=1024 * 1024))
        except BaseException:
            await session.close()
            raise

    async def send(self, text: str, chunked: bool) -> None:
        try:
            await self._websocket.send_str(text)
        except (ConnectionError, aiohttp.ClientError):
            pass

    async def receive(self, chunked: bool) -> str | None:
        message = await self._websocket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            return None
        raise MismatchError(f"a message that is no text: {message}")

    async def close(self) -> None:
        await self._websocket.close()
        await self._session.close()


async def connect(address: str) -> Channel:
    """A channel to an address, as servers print it."""
    if address.startswith("ws://"):
        return await MessageChannel.connect(address)
    return await LineChannel.connect(address)


class _Connection:
    """A channel, and what of the conversation decides what is allowed."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.greeting = True
        self.streaming = False
        self.last_sent = ""
        self.wants_headers = False

    async def send(self, text: str, chunked: bool) -> None:
        if self.greeting:
            self.wants_headers |= text == "needs-headers: true"
            self.greeting = text != ""
        self.streaming = self.streaming and self.last_sent != "END"
        self.streaming |= text.startswith(('{"get-stream"', '{"exists-stream"', '{"gc-mark-stream"'))
        self.last_sent = text
        await self.channel.send(text, chunked)

    async def receive(self, chunked: bool) -> str | None:
        text = await self.channel.receive(chunked)
        while self.wants_headers and text:
            text = await self.channel.receive(chunked)  # a header of the server's own
        self.wants_headers = False
        return text

    async def receive_eof(self) -> None:
        """Wait for the close, with an invoke-error before it if a malformed request deserves one."""
        text = await self.receive(chunked=False)
        if text is not None and text.startswith('{"invoke-error"') and self._last_is_malformed():
            text = await self.receive(chunked=False)
        if text is not None:
            raise MismatchError(f"due: the server closes\ncame: {_short(text)}")

    def _last_is_malformed(self) -> bool:
        if self.streaming:
            return False
        try:
            parse_request(COMMANDS, decode(self.last_sent))
        except InvalidRequestError:
            return True
        return False


class Player:
    """Plays transcripts against servers, `addresses` being theirs by kind: plain, auth, readonly."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._connections: dict[int, _Connection] = {}
        self._tokens: dict[str, object] = {}

    async def play(self, path: Path) -> None:
        """Play one transcript. Raises MismatchError with the name, the line and both sides."""
        with path.open(encoding="utf-8") as file:
            events = [json.loads(line) for line in file]
        try:
            for number, event in enumerate(events, 1):
                try:
                    async with asyncio.timeout(EVENT_LIMIT):
                        await self._play_event(event)
                except (MismatchError, TimeoutError) as error:
                    what = str(error) or f"nothing came within {EVENT_LIMIT:g} s; due: {_short(json.dumps(event))}"
                    raise MismatchError(f"{path.name} line {number}: {what}") from None
        finally:
            for connection in self._connections.values():
                await connection.channel.close()

    async def _play_event(self, event: dict[str, Any]) -> None:
        chunked = event.get("chunked", False)
        match event:
            case {"open": number, "server": kind}:
                self._connections[number] = _Connection(await connect(self._addresses[kind]))
            case {"close": number}:
                await self._connections.pop(number).channel.close()
            case {"conn": number, "send": line}:
                await self._connections[number].send(line, chunked)
            case {"conn": number, "send_json": value}:
                await self._connections[number].send(json.dumps(fill(value, self._tokens)), chunked)
            case {"conn": number, "recv": line}:
                check_line(line, await self._receive(number, chunked))
            case {"conn": number, "recv_json": value}:
                check_json(value, json.loads(await self._receive(number, chunked)), self._tokens)
            case {"conn": number, "eof": True}:
                await self._connections[number].receive_eof()
            case _:
                raise ValueError(f"unknown event {event}")

    async def _receive(self, number: int, chunked: bool) -> str:
        text = await self._connections[number].receive(chunked)
        if text is None:
            raise MismatchError("the server has closed where an answer is due")
        return text


def fill(value: Any, tokens: Mapping[str, object]) -> Any:
    """The value with its placeholders replaced by what is bound to them."""
    match value:
        case {"$": name}:
            return tokens[name]
        case dict():
            return {key: fill(item, tokens) for key, item in value.items()}
        case _:
            return value


def check_line(due: str, came: str) -> None:
    """Raise MismatchError unless a line is the one that is due."""
    try:
        due_value, came_value = json.loads(due), json.loads(came)
    except ValueError:
        due_value = came_value = None
    if isinstance(due_value, dict) and isinstance(came_value, dict):
        check_json(due_value, came_value, {})
    elif due != came:
        raise MismatchError(f"due:  {_short(due)}\ncame: {_short(came)}")


def check_json(due: Any, came: Any, tokens: dict[str, object]) -> None:
    """Raise MismatchError unless a JSON value is the one that is due; binds tokens that are new."""
    wrong = _differences(due, came, tokens, "answer")
    if wrong:
        raise MismatchError("\n".join(wrong))


def _differences(due: Any, came: Any, tokens: dict[str, object], where: str) -> list[str]:
    match due:
        case {"$": str(name)}:
            if name.startswith("token"):
                due = tokens.setdefault(name, came)
                return [] if due == came else [f"{where}: not the {name} of before"]
            return []
        case dict() if isinstance(came, dict):
            wrong = [f"{where}: {key!r} is missing" for key in due if key not in came and due[key] != {"$": "id"}]
            wrong += [f"{where}: {key!r} is too much: {_short(str(came[key]))}" for key in came if key not in due]
            for key in due.keys() & came.keys():
                wrong += _differences(due[key], came[key], tokens, f"{where}.{key}")
            return wrong
        case list() if isinstance(came, list) and where.endswith(".columns"):
            due, came = sorted(due), sorted(came)
    if due == came:
        return []
    return [f"{where}: due:  {_short(json.dumps(due))}", f"{where}: came: {_short(json.dumps(came))}"]


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]} ... ({len(text)} characters) ... {text[-50:]}"
