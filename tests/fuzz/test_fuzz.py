"""Fuzzing: whatever a peer sends, each side gives an answer that is documented, or closes; and nobody else notices.

``FUZZ_INPUTS`` and ``FUZZ_SEED`` make more and others of them; ``-m soak`` makes a million.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardhash.client import AsyncClient, Client, InvokeError
from shardhash.wire.connection import ServerConnection
from shardhash.wire.events import Asked, BatchAsked, Ended, Event, Refused, StreamLines
from shardhash.wire.limits import Limits
from tests.fuzz.inputs import Inputs
from tests.line_server import serving
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

SEED = int(os.environ.get("FUZZ_SEED", "1"))
COUNT = int(os.environ.get("FUZZ_INPUTS", "20000"))
"""Conversations with the state machine; a twentieth of them with real servers and clients."""
LIMIT = 30.0
LIMITS = Limits(line=3000, message=6000, headers=8, header_bytes=400, values=500, batch=20)


def told(events: list[Event]) -> list[object]:
    """Events so that equal conversations compare equal: neighbouring blocks joined, errors by kind."""
    result: list[object] = []
    for event in events:
        if isinstance(event, StreamLines) and result and isinstance(last := result[-1], StreamLines):
            result[-1] = StreamLines(event.command, last.text + event.text, last.count + event.count)
        elif isinstance(event, BatchAsked):
            result.append((event.batch.op, event.batch.method, bytes(event.batch.digests)))
        else:
            result.append(type(event) if isinstance(event, Refused | Ended) else event)
    return result


def converse(parts: list[bytes], at_once: int | None) -> list[object]:
    machine = ServerConnection(limits=LIMITS, at_once=at_once)
    events: list[Event] = []
    for part in parts:
        events += machine.receive_data(part)
        while machine.more:
            events += machine.receive_data(b"")
        assert machine.held <= LIMITS.line + LIMITS.message + 1
    if any(isinstance(event, Refused | Ended) for event in events):
        assert machine.closed
        assert isinstance(events[-1], Refused | Ended)
        assert machine.receive_data(b'{"ping": {}}\n') == []
    return told(events)


def state_machine(count: int, seed: int) -> int:
    """Conversations with the state machine; how many requests they held."""
    inputs, asked = Inputs(seed), 0
    for _ in range(count):
        data = inputs.lines()
        whole = converse([data], None)
        assert converse(inputs.cut(data), None) == whole, data
        assert converse(inputs.cut(data), 1) == whole, data
        messages = inputs.messages()
        machine = ServerConnection(limits=LIMITS, lines=False)
        events = [event for message in messages for event in machine.receive_messages([message])]
        assert told(ServerConnection(limits=LIMITS, lines=False).receive_messages(messages)) == told(events), messages
        asked += sum(isinstance(event, Asked | BatchAsked | StreamLines) for event in (*whole, *events))
    return asked


def test_the_state_machine() -> None:
    assert state_machine(COUNT, SEED) > COUNT // 2, "most conversations get as far as a request"


@pytest.mark.soak
def test_the_state_machine_for_long() -> None:
    assert state_machine(1_000_000, SEED + 1) > 0


@pytest.fixture
def fuzzed_server(start_server: Callable[..., ServerProcess], tmp_path: Path) -> ServerProcess:
    """A server of which all is asked by everyone; wrong logins and waits for a token take time, so few are made."""
    binds = ["127.0.0.1:0", f"unix://{tmp_path}/server.sock", "ws://127.0.0.1:0"]
    return start_server(*IN_MEMORY, "--limit", "message_time=2s", binds=binds)


async def test_a_server(fuzzed_server: ServerProcess) -> None:
    """Over all transports at once, while a client beside them gets its answers."""
    inputs = Inputs(SEED)
    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(_lines(fuzzed_server.addresses[number % 2], Inputs(SEED + number), COUNT // 320))
        for number in range(8):
            tasks.create_task(_messages(fuzzed_server.addresses[2], Inputs(SEED - number - 1), COUNT // 320))
    async with AsyncClient(fuzzed_server.address) as client:
        digest = inputs.dice.randbytes(32).hex()
        assert (await client.report_unihash(digest, "witness", digest, digest))["unihash"] == digest
        assert await client.get_unihash("witness", digest) == digest
    said = fuzzed_server.log.read()
    assert "this is a bug" not in said
    assert "Traceback" not in said


async def _lines(address: str, inputs: Inputs, count: int) -> None:
    for _ in range(count):
        if address.startswith("unix://"):
            reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError):  # ENOTCONN, too: the server may have closed it meanwhile
            for part in inputs.cut(inputs.lines()):
                writer.write(part)
                await writer.drain()
            if inputs.dice.random() < 0.5:
                writer.write_eof()
                async with asyncio.timeout(LIMIT):
                    while await reader.read(1 << 16):
                        pass
        writer.transport.abort()
        await asyncio.sleep(0)


async def _messages(address: str, inputs: Inputs, count: int) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            async with session.ws_connect(address, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)) as socket:
                with suppress(ConnectionError, aiohttp.ClientError):
                    for message in inputs.messages():
                        if isinstance(message, bytes):
                            await socket.send_bytes(message)
                        else:
                            await socket.send_str(message.encode("utf-8", "replace").decode())


@asynccontextmanager
async def hostile(inputs: Inputs) -> AsyncIterator[str]:
    """A server that says anything to anything; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        writer.write(inputs.dice.choice((b"\n", b"\n", b"shardhash-batch: 1\n\n", b"x\n", b"a: b\n" * 100)))
        while await reader.read(1 << 16):
            writer.write(inputs.answer())
            if inputs.dice.random() < 0.3:
                writer.close()
                await writer.wait_closed()
                break
            await writer.drain()

    async with serving(serve) as address:
        yield address


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_client_of_a_hostile_server(kind: type[AsyncClient | Client]) -> None:
    """Each call ends soon, by a value of its type or by an error that is documented."""
    inputs = Inputs(SEED)
    async with hostile(inputs) as address:
        for number in range(COUNT // 400):
            client = kind(address, timeout=0.3, deadline=1.0)
            calls: list[Callable[[], Any]] = [
                partial(client.get_unihash, "m", "00" * 32),
                partial(client.unihash_exists, "00" * 32),
                partial(client.get_taskhash, "m", "t"),
                partial(client.report_unihash, "t", "m", "o", "00" * 32),
                client.get_all_users,
            ]
            call = calls[number % len(calls)]
            async with asyncio.timeout(LIMIT):
                with suppress(ConnectionError, InvokeError):
                    await (asyncio.to_thread(call) if isinstance(client, Client) else call())
            if isinstance(client, Client):
                client.after_fork()  # closes the connection without a word
            else:
                await client.disconnect()


@pytest.mark.parametrize(("headers", "text"), [(True, "headers"), (False, "values")])
async def test_a_client_limits_what_it_takes(headers: bool, text: str) -> None:
    """Headers by their bytes, and answers by the values in them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        while headers:
            writer.write(b"x: " + b"y" * 1000 + b"\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"\n")
        await reader.readline()
        writer.write(b'{"chunk-stream": null}\n' + (b"1," * 16_000 + b"\n") * 400 + b"\n")
        await writer.drain()
        await reader.read()

    async with serving(serve) as address:
        with pytest.raises(ConnectionError, match=text):
            await AsyncClient(address, timeout=5.0).get_taskhash("m", "t")
