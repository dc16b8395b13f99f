"""Builders: each a connection of its own that asks the steps of its workload one after the other and checks answers.

An answer is checked whole: its bytes are compared with the bytes that are due. What a builder sends as text (stream
lines, keys of Redis) is put together before the clock runs, for a build has it as text already.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import Any, Generic, TypeAlias, TypeVar

from perf.workload import Step, WrongAnswerError, digests
from shardhash.client import AsyncClient, create_async_client
from shardhash.client.connect import open_transport
from shardhash.client.connection import Connection
from shardhash.client.event_loop import EventLoop
from shardhash.client.questions import ExistenceOfDigests
from shardhash.wire.address import parse_address

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
GET_STREAM = b'{"get-stream": null}\n'

TIMEOUT = 30.0
"""Seconds without progress after which a connection counts as broken."""

Lookups: TypeAlias = Sequence[Step]
Steps = TypeVar("Steps", bound=Sized)


class Builder(ABC, Generic[Steps]):
    """Asks `steps` at an address. `connect` may take its time; `ask` is what is measured."""

    def __init__(self, address: str, steps: Steps) -> None:
        self.address = address
        self.steps = steps

    @abstractmethod
    async def connect(self) -> None:
        """Connect and get everything ready."""

    @abstractmethod
    async def ask(self, number: int) -> None:
        """Ask a step and check the answers. Raises WrongAnswerError."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    def wrong(self, number: int, due: object, came: object) -> WrongAnswerError:
        """What to raise."""
        return WrongAnswerError(f"{self.address}, step {number}: {_short(due)} is due, {_short(came)} came")


class Native(Builder[Lookups]):
    """shardhash's own client: native batches, digests in and out, binary frames over a WebSocket."""

    async def connect(self) -> None:
        self._client: AsyncClient = await create_async_client(self.address, block=max(map(len, self.steps)))

    async def ask(self, number: int) -> None:
        step = self.steps[number]
        found = await self._client.get_unihashes(step.method, step.taskhashes)
        if found.digests != step.unihashes or found.known != step.known:
            raise self.wrong(number, (step.unihashes, step.known), found)

    async def close(self) -> None:
        await self._client.close()


class Exists(Builder[Lookups]):
    """Existence checks in native batches: of the unihashes at odd places, and of the taskhashes at the even ones.

    A taskhash is the unihash of a mapping only where it lent its output its hash.
    """

    async def connect(self) -> None:
        transport = await open_transport(parse_address(self.address), TIMEOUT, EventLoop())
        self._connection = await Connection.open(transport, native=True, block=max(map(len, self.steps)))
        self._asked, self._due = zip(*map(_existence, self.steps), strict=True)

    async def ask(self, number: int) -> None:
        question = ExistenceOfDigests(self._asked[number])
        await self._connection.ask(question)
        if question.status() != self._due[number]:
            raise self.wrong(number, self._due[number], question.status())

    async def close(self) -> None:
        await self._connection.close()


class NativeText(Builder[Lookups]):
    """The same client as builds use it: pairs of texts in, a list of texts out."""

    async def connect(self) -> None:
        self._client: AsyncClient = await create_async_client(self.address, block=max(map(len, self.steps)))
        self._pairs = [[(step.method, taskhash.hex()) for taskhash in digests(step.taskhashes)] for step in self.steps]
        self._due = [[unihash and unihash.hex() for unihash in _unihashes(step)] for step in self.steps]

    async def ask(self, number: int) -> None:
        answers = await self._client.get_unihash_batch(self._pairs[number])
        if answers != self._due[number]:
            raise self.wrong(number, self._due[number], answers)

    async def close(self) -> None:
        await self._client.close()


class Stream(Builder[Lookups]):
    """Stream lines over raw TCP or a unix socket, a block of lines in one write, answers read as they come.

    It works against any server of the protocol. The text of what is due is known, so nothing is parsed.
    """

    async def connect(self) -> None:
        address = parse_address(self.address)
        loop = asyncio.get_running_loop()
        if address.kind == "unix":
            self._transport, self._answers = await loop.create_unix_connection(_Answers, address.path)
        else:
            self._transport, self._answers = await loop.create_connection(_Answers, address.host, address.port)
        self._lines = [_lines(step) for step in self.steps]
        self._due = [_unihash_lines(step) for step in self.steps]
        self._transport.write(HELLO + GET_STREAM)
        if (wrong := await self._answers.expect(b'"ok"\n')) is not None:
            raise self.wrong(-1, b'"ok"\n', wrong)

    async def ask(self, number: int) -> None:
        due = self._due[number]
        self._transport.write(self._lines[number])
        if (wrong := await self._answers.expect(due)) is not None:
            raise self.wrong(number, due, wrong)

    async def close(self) -> None:
        self._transport.close()


class Stock(Builder[Lookups]):
    """The transport of BitBake's own client: a send and a receive for each lookup, side by side."""

    async def connect(self) -> None:
        from bb.asyncrpc import AsyncClient as StockClient

        self._client: Any = StockClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"))
        address = parse_address(self.address)
        if address.kind == "ws":
            await self._client.connect_websocket(self.address)
        elif address.kind == "unix":
            await self._client.connect_unix(address.path)
        else:
            await self._client.connect_tcp(address.host, address.port)
        self._lines = [_lines(step).decode().splitlines() for step in self.steps]
        self._due = [_unihash_lines(step).decode().split("\n")[:-1] for step in self.steps]
        await self._client.invoke({"get-stream": None})

    async def ask(self, number: int) -> None:
        due = self._due[number]
        sending = asyncio.create_task(self._send(number))
        receive = self._client.socket.recv
        answers = [await receive() for _ in due]
        await sending
        if answers != due:
            raise self.wrong(number, due, answers)

    async def _send(self, number: int) -> None:
        send = self._client.socket.send
        for line in self._lines[number]:
            await send(line)

    async def close(self) -> None:
        await self._client.close()


class Redis(Builder[Lookups]):
    """Redis by MGET through redis-py with the parser of hiredis; keys and values are digests, its best case."""

    async def connect(self) -> None:
        from redis.asyncio import Redis as RedisClient

        host, _, port = self.address.rpartition(":")
        self._client: Any = RedisClient(host=host, port=int(port), single_connection_client=True)
        await self._client.ping()
        self._keys = [digests(step.taskhashes) for step in self.steps]
        self._due = [_unihashes(step) for step in self.steps]

    async def ask(self, number: int) -> None:
        answers = await self._client.mget(self._keys[number])
        if answers != self._due[number]:
            raise self.wrong(number, self._due[number], answers)

    async def close(self) -> None:
        await self._client.aclose()


CLIENTS: dict[str, tuple[type[Builder[Lookups]], str]] = {
    "native": (Native, "ws"),
    "native-text": (NativeText, "ws"),
    "exists": (Exists, "ws"),
    "stream": (Stream, "tcp"),
    "stock-tcp": (Stock, "tcp"),
    "stock-ws": (Stock, "ws"),
    "redis": (Redis, "tcp"),
}
"""Each kind of client, and the kind of address that it takes from a server of our own."""


class _Answers(asyncio.Protocol):
    """Holds what arrives against what is due, a piece at a time; nothing is kept."""

    def __init__(self) -> None:
        self._due = b""
        self._seen = 0
        self._stray: bytes | None = None
        """What came while nothing was due, empty for the end of the connection."""
        self._waiter: asyncio.Future[bytes | None] | None = None

    async def expect(self, due: bytes) -> bytes | None:
        """Wait until all that is due has come: None; else the first piece that is wrong, empty if the end came."""
        if self._stray is not None:
            return self._stray
        self._due, self._seen = due, 0
        self._waiter = asyncio.get_running_loop().create_future()
        return await self._waiter

    def data_received(self, data: bytes) -> None:
        if not self._due.startswith(data, self._seen):
            self._settle(data)
            return
        self._seen += len(data)
        if self._seen == len(self._due):
            self._due = b""  # from now on nothing is due
            self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._settle(b"")

    def _settle(self, outcome: bytes | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)
        else:
            self._stray = outcome


def _existence(step: Step) -> tuple[bytes, bytes]:
    """The digests that `Exists` asks for, and the status due for each."""
    asked, due = [], bytearray()
    for place, (taskhash, unihash) in enumerate(zip(digests(step.taskhashes), _unihashes(step), strict=True)):
        asked.append(unihash or taskhash if place % 2 else taskhash)
        due.append(asked[-1] == unihash)
    return b"".join(asked), bytes(due)


def _lines(step: Step) -> bytes:
    prefix = step.method.encode() + b" "
    return b"".join([prefix + taskhash.hex().encode() + b"\n" for taskhash in digests(step.taskhashes)])


def _unihash_lines(step: Step) -> bytes:
    return b"".join([(unihash or b"").hex().encode() + b"\n" for unihash in _unihashes(step)])


def _unihashes(step: Step) -> list[bytes | None]:
    """A digest for each lookup, None where none is known."""
    each = digests(step.unihashes)
    return [unihash if known else None for unihash, known in zip(each, step.known or b"\1" * len(each), strict=True)]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}... ({len(text)} characters)"
