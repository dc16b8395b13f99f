"""Frames of clients, however they arrive: answered as they are read, or by way of aiohttp, and always in order."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from shardhash.base import turns
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.wire import batch
from shardhash.wire.address import Address, parse_bind
from shardhash.wire.batch import Batch, Found
from shardhash.wire.hashes import Buffer, Key, split_digests
from shardhash.wire.websocket import (
    BINARY,
    CONTINUATION,
    KEY_SIZE,
    PING,
    PONG,
    TEXT,
    FrameReader,
    encode_frames,
    encode_upgrade,
    key_text,
)
from tests.stores.plain_store import PlainStore

METHOD = "m"
LIMIT = 10.0
KNOWN = [f"{number:064x}" for number in range(1, 40)]
HELLO = [(TEXT, b"OEHASHEQUIV 1.1"), (TEXT, b"needs-headers: true"), (TEXT, b"")]
Frames = Iterable[tuple[int, bytes]]
Cut = Callable[[bytes], list[bytes]]


def frames(messages: Frames) -> bytes:
    return b"".join(bytes(encode_frames(kind, [text], os.urandom(4))) for kind, text in messages)


def pieces(size: int) -> Cut:
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


class KnownStore(PlainStore):
    """Knows `KNOWN`, all of it at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.found_at_hand = 0

    def find(self, method: str, digests: Buffer) -> Found | None:
        self.found_at_hand += 1
        return self._found(digests)

    async def lookup(self, method: str, digests: Buffer) -> Found:
        return self._found(digests)

    async def lookup_keys(self, method: str, taskhashes: Sequence[Key]) -> list[bytes | None]:
        return [None for _ in taskhashes]

    @staticmethod
    def _found(digests: Buffer) -> Found:
        return Found.of([key if key.hex() in KNOWN else None for key in split_digests(digests)])


class Client:
    """A WebSocket by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self._reader, self._writer = reader, writer
        self._frames = FrameReader(1 << 20)
        self._frames.feed(rest)

    async def send(self, data: bytes, cut: Cut = lambda data: [data]) -> None:
        for piece in cut(data):
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def receive(self, count: int) -> list[bytes]:
        """So many messages, control frames aside."""
        found: list[bytes] = []
        while len(found) < count:
            kind, data = await self._next()
            if kind in (TEXT, BINARY):
                found.append(data)
            else:
                assert kind == PONG
        return found

    async def pongs(self, count: int) -> list[bytes]:
        """The next so many messages, which are pongs."""
        messages = [await self._next() for _ in range(count)]
        assert all(kind == PONG for kind, _ in messages)
        return [data for _, data in messages]

    async def _next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(LIMIT):
            while (message := self._frames.next_message()) is None:
                data = await self._reader.read(1 << 16)
                assert data, "the server closed"
                self._frames.feed(data)
        return message


@pytest.fixture
def store() -> KnownStore:
    return KnownStore()


@pytest.fixture
def services(store: KnownStore) -> Services:
    return Services(store=store, users=Users(store), stats=Stats())


@pytest.fixture
async def listeners(services: Services) -> AsyncIterator[Listeners]:
    listeners = Listeners(services, ServerLimits())
    yield listeners
    await listeners.close()


@pytest.fixture
async def listening(listeners: Listeners) -> Address:
    return await listeners.open(Bind(parse_bind("ws://127.0.0.1:0")[0]))


@pytest.fixture
def turns_taken(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each turn that anybody waits for."""
    taken: list[int] = []
    wait = services.turns.next

    def counted() -> asyncio.Future[None]:
        taken.append(len(taken))
        return wait()

    monkeypatch.setattr(services.turns, "next", counted)
    return taken


@asynccontextmanager
async def connected(address: Address, early: bytes = b"") -> AsyncIterator[Client]:
    """`early`: frames that follow the request for the upgrade in one write."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(encode_upgrade(address, key_text(os.urandom(KEY_SIZE))) + early)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    try:
        yield Client(reader, writer, b"")
    finally:
        writer.transport.abort()


def question(text: str) -> tuple[int, bytes]:
    return TEXT, f"{METHOD} {text}".encode()


def answer(text: str) -> bytes:
    return text.encode() if text in KNOWN else b""


@pytest.mark.parametrize("cut", [pieces(1), pieces(7), pieces(101), pieces(1 << 20)], ids=["1", "7", "101", "whole"])
async def test_lines_batches_and_requests_in_every_cut(listening: Address, cut: Cut) -> None:
    asked = [*KNOWN[:20], "f" * 64, *KNOWN[20:], "short"]
    digests = b"".join(map(bytes.fromhex, KNOWN))
    report = {"taskhash": "a" * 64, "method": METHOD, "outhash": "b" * 64, "unihash": "c" * 64}
    async with connected(listening) as client:
        await client.send(frames(HELLO), cut)
        await client.receive(4)  # three headers and an empty line
        for _ in range(3):
            await client.send(frames([(TEXT, b'{"get-stream": null}')]), cut)
            assert await client.receive(1) == [b'"ok"']
            await client.send(frames(map(question, asked)), cut)
            assert await client.receive(len(asked)) == list(map(answer, asked))
            await client.send(frames([*map(question, asked), (TEXT, b"END"), (TEXT, b'{"ping": {}}')]), cut)
            assert await client.receive(len(asked)) == list(map(answer, asked))
            assert [json.loads(text) if text[:1] == b"{" else text for text in await client.receive(2)] == [
                b"ok",
                {"alive": True},
            ]
            await client.send(frames([(BINARY, batch.encode_request(Batch(batch.GET, METHOD, digests)))]), cut)
            (found,) = await client.receive(1)
            assert batch.decode_answer(found) == Found(digests, None)
            await client.send(frames([(TEXT, json.dumps({"report": report}).encode())]), cut)
            (stored,) = await client.receive(1)
            assert json.loads(stored)["unihash"] == "c" * 64


async def test_what_comes_whole_is_answered_as_it_is_read(listening: Address, store: KnownStore) -> None:
    asked = batch.encode_request(Batch(batch.GET, METHOD, bytes.fromhex(KNOWN[0])))
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}')]))
        await client.receive(5)
        for number in range(1, 5):
            await client.send(frames(map(question, KNOWN)))
            assert await client.receive(len(KNOWN)) == list(map(answer, KNOWN))
            assert store.found_at_hand == number
        await client.send(frames([(TEXT, b"END")]))
        await client.receive(1)
        for number in range(5, 9):
            await client.send(frames([(BINARY, asked)]))
            await client.receive(1)
            assert store.found_at_hand == number


async def test_control_frames_and_parts_between_lines(listening: Address) -> None:
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}')]))
        await client.receive(5)
        for at in range(3):
            first, second, third = KNOWN[at : at + 3]
            parts = encode_frames(TEXT, [b"m " + second[:9].encode()], b"abcd", final=False)
            rest = encode_frames(CONTINUATION, [second[9:].encode()], b"efgh")
            await client.send(frames([question(first), (PING, b"there?"), question(first)]))
            await client.send(frames([(PING, b"")]))
            await client.send(frames([question(first)]) + bytes(parts))
            await client.send(frames([(PING, b"still?")]) + bytes(rest) + frames([question(third)]))
            await client.send(frames([question(third)]))
            texts = [first, first, first, second, third, third]
            assert await client.receive(len(texts)) == list(map(answer, texts))


async def test_frames_that_do_not_wait_for_the_upgrade(listening: Address) -> None:
    async with connected(listening, frames([*HELLO, (TEXT, b'{"get-stream": null}'), question(KNOWN[0])])) as client:
        assert (await client.receive(6))[-2:] == [b'"ok"', answer(KNOWN[0])]
        for text in KNOWN:
            await client.send(frames([question(text)]))
            assert await client.receive(1) == [answer(text)]


async def test_an_idle_client_that_pings_is_not_amidst_a_message(listening: Address, listeners: Listeners) -> None:
    connections = listeners._connections
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}'), question(KNOWN[0])]))
        await client.receive(6)
        (connection,) = connections._open.values()
        later = asyncio.get_running_loop().time() + 2 * connections.limits.message_time
        await client.send(frames([(PONG, b"unasked"), (PING, b"there?")]))
        assert await client.pongs(1) == [b"there?"]
        assert (connection.partial, connection.queued) == (0, 0)
        assert connections._overdue(connection, later) is None
        begun = bytes(encode_frames(TEXT, [b"m " + KNOWN[1][:9].encode()], b"abcd", final=False))
        await client.send(begun + frames([(PING, b"still?")]))
        assert await client.pongs(1) == [b"still?"]
        assert (connection.partial, connection.queued) == (len(begun), len(begun))
        overdue = connections._overdue(connection, later)
        assert overdue is not None
        assert overdue[0] == "message_time"
        await client.send(bytes(encode_frames(CONTINUATION, [KNOWN[1][9:].encode()], b"efgh")))
        assert await client.receive(1) == [answer(KNOWN[1])]


async def test_a_flood_of_pings_is_answered_in_turn(
    listening: Address, turns_taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE", -1.0)
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}'), question(KNOWN[0])]))
        await client.receive(6)
        before = len(turns_taken)
        texts = [str(number).encode() for number in range(100)]
        await client.send(frames([(PING, text) for text in texts] + [question(KNOWN[1])]))
        assert await client.pongs(len(texts)) == texts
        assert len(turns_taken) >= before + 40, "of two pings in a row the second is beyond the slice"
        assert await client.receive(1) == [answer(KNOWN[1])]


async def test_who_sends_without_a_pause_is_read_in_turn(listening: Address, turns_taken: list[int]) -> None:
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}'), question(KNOWN[0])]))
        await client.receive(6)
        before = len(turns_taken)
        nothing = bytes(encode_frames(CONTINUATION, [b""], b"abcd", final=False))
        await client.send(bytes(encode_frames(TEXT, [b"m "], b"abcd", final=False)) + nothing * 200_000)
        await client.send(bytes(encode_frames(CONTINUATION, [KNOWN[1].encode()], b"efgh")))
        assert await client.receive(1) == [answer(KNOWN[1])]
        assert len(turns_taken) >= before + 3
        await client.send(frames([question(KNOWN[2])]))
        assert await client.receive(1) == [answer(KNOWN[2])]


async def test_who_leaves_amidst_its_pings_is_no_error_of_the_server(
    listening: Address, listeners: Listeners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "SLICE", -1.0)
    async with connected(listening) as client:
        await client.send(frames([*HELLO, (TEXT, b'{"get-stream": null}'), question(KNOWN[0])]))
        await client.receive(6)
        await client.send(frames([(PING, b"")] * 5000))
        assert await client.pongs(1) == [b""]
    async with asyncio.timeout(LIMIT):
        while listeners.connected:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
