"""Bad input at a real server: each gets the documented answer or a close, and nobody else notices.

One server takes all of it. After each case a connection that was open all the time still gets its answers, and
nothing has been stored.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.player import LineChannel, connect
from tests.servers import IN_MEMORY, ServerProcess

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
STREAM = HELLO + b'{"get-stream": null}\n'
H = "ab" * 32
LIMIT = 30.0
OFFERS = ["shardhash-batch: 1", "shardhash-report-batch: 1", "shardhash-guess: 1", ""]
"""Seconds until an answer or a close that does not come has failed."""


@pytest.fixture(scope="module")
def bad_input_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has to stand all of this file."""
    socket_path = tmp_path_factory.mktemp("socket") / "server.sock"
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", f"unix://{socket_path}", "ws://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture
async def witness(bad_input_server: ServerProcess) -> AsyncIterator[None]:
    """A connection that is open all the time: it is answered before and after, and finds nothing stored."""
    channel = await LineChannel.connect(bad_input_server.addresses[1])
    try:
        for line in HELLO.decode().splitlines():
            await channel.send(line, chunked=False)
        assert await usage(channel) == (0, 0)
        yield
        assert await usage(channel) == (0, 0)
    finally:
        await channel.close()


async def usage(channel: LineChannel) -> tuple[int, int]:
    """How many mappings and outhash rows the server has."""
    async with asyncio.timeout(LIMIT):
        await channel.send('{"get-db-usage": {}}', chunked=False)
        answer = json.loads(await channel.receive(chunked=False) or "null")
    return tuple(answer["usage"][table]["rows"] for table in ("unihashes_v3", "outhashes_v2"))


async def converse(server: ServerProcess, data: bytes) -> bytes:
    """All that the server says to some bytes until it closes, over TCP."""
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(LIMIT):
            writer.write(data)
            await writer.drain()
            while more := await reader.read(65536):
                said += more
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return said


def report(**changed: object) -> bytes:
    """A report with some fields changed; it would be stored if they were right."""
    fields = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H} | changed
    return json.dumps({"report": fields}).encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",  # a TLS client
        b"OEHASHEQUIV 1.1\n" + b"a: b\n" * 100_000,
        b"OEHASHEQUIV 1.1\na: " + b"b" * 100_000 + b"\n",
        b"OEHASHEQUIV 1.1\n\xff\n\n",
        HELLO + b'{"no-such-command": {}}\n' + report(),
        STREAM + b"one-token\n",
        STREAM + b"m \xff\n",
        STREAM + b"three m tokens\n",
        STREAM + b" \n",
        HELLO + b'{"exists-stream": null}\na b\n',
        HELLO + b'{"gc-mark-stream": null}\n[]\n',
        HELLO + b"x" * 300_000,
        HELLO + b'{"chunk-stream": null}\n{"report": "\n' + (b"x" * 32767 + b"\n") * 2100,  # over 64 MiB
    ],
)
async def test_closes_without_an_answer(bad_input_server: ServerProcess, witness: None, data: bytes) -> None:
    said = await converse(bad_input_server, data)
    assert said.removeprefix(b'"ok"\n') == b""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"not json\n", "must be JSON"),
        (b'{"ping": "\xff"}\n', "must be UTF-8"),
        (b"[" * 20_000 + b"\n", "nested too deep"),
        (b'{"a":' * 1_000 + b"1" + b"}" * 1_000 + b"x\n", "must be JSON"),
        (b'{"chunk-stream": null}\n\n', "must be JSON"),
        (report(taskhash="a b"), "'taskhash' must not hold white space"),
        (report(outhash="a\nb"), "'outhash' must not hold white space"),
        (report(method="m\0"), "'method' must not hold a NUL"),
        (report(method="\ud800"), "'method' must not hold half a surrogate pair"),
        (report(taskhash="t" * 100_000), "'taskhash' has 100000 characters"),
        (report(taskhash=5), "'taskhash' must be text, not a number"),
        (report(unihash=5), "Invalid unihash"),
        (b'{"report": {}}\n', "'method' is missing"),
        (b'{"report": []}\n', "must be an object"),
    ],
)
async def test_refuses_and_closes(bad_input_server: ServerProcess, witness: None, data: bytes, text: str) -> None:
    said = await converse(bad_input_server, HELLO + data + report())
    assert said.count(b"\n") == 1, said
    assert text in json.loads(said)["invoke-error"]["message"]


async def test_a_line_of_200_mb_is_not_kept(bad_input_server: ServerProcess, witness: None) -> None:
    before = peak_memory(bad_input_server)
    host, _, port = bad_input_server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(HELLO)
    sent = 0
    with suppress(ConnectionError):  # the server closes long before the end
        async with asyncio.timeout(LIMIT):
            while sent < 200_000_000:
                writer.write(b"x" * 1_000_000)
                await writer.drain()
                sent += 1_000_000
    assert sent < 200_000_000
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    assert peak_memory(bad_input_server) < before + 20_000_000


def peak_memory(server: ServerProcess) -> int:
    """The most bytes that the coordinator has held so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize(
    "data", [b"OEHASH", b"OEHASHEQUIV 1.1\nneeds", HELLO, HELLO + b'{"pi', STREAM, STREAM + b"m t"]
)
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_goes_away(bad_input_server: ServerProcess, witness: None, data: bytes, how: str) -> None:
    host, _, port = bad_input_server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    if how == "end":
        writer.write_eof()
        async with asyncio.timeout(LIMIT):
            assert (await reader.read()).removeprefix(b'"ok"\n') == b""
    else:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_client_that_goes_away_with_much_in_flight(bad_input_server: ServerProcess, witness: None) -> None:
    host, _, port = bad_input_server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(STREAM + f"m {H}\n".encode() * 50_000)
    writer.transport.abort()


@asynccontextmanager
async def websocket(server: ServerProcess, *greeting: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.addresses[2]) as connection:
        for message in ["OEHASHEQUIV 1.1", *greeting]:
            await connection.send_str(message)
        yield connection


async def rest_of(connection: aiohttp.ClientWebSocketResponse) -> list[str]:
    """All text messages until the server closes."""
    said = []
    async with asyncio.timeout(LIMIT):
        while (message := await connection.receive()).type is aiohttp.WSMsgType.TEXT:
            said.append(message.data)
    return said


@pytest.mark.parametrize(
    ("greeting", "frame", "said"),
    [
        ([], b"\1", []),
        ([""], b"\1\1" + bytes(6), []),  # batches were not asked for
        (["needs-headers: true", ""], b"\2\1" + bytes(6), OFFERS),
        (["needs-headers: true", ""], b"\1\1\0\0\xff\xff\xff\xff", OFFERS),
        (["", '{"get-stream": null}'], b"m t", ['"ok"']),
    ],
)
async def test_binary_where_text_is_due(
    bad_input_server: ServerProcess, witness: None, greeting: list[str], frame: bytes, said: list[str]
) -> None:
    async with websocket(bad_input_server, *greeting) as connection:
        await connection.send_bytes(frame)
        assert await rest_of(connection) == said


async def test_a_websocket_that_refuses(bad_input_server: ServerProcess, witness: None) -> None:
    async with websocket(bad_input_server, "") as connection:
        await connection.send_str("[" * 20_000)
        await connection.send_str(report().decode())
        (said,) = await rest_of(connection)
    assert "nested too deep" in said


async def test_a_websocket_that_vanishes(bad_input_server: ServerProcess, witness: None) -> None:
    async with websocket(bad_input_server, "", '{"get-stream": null}') as connection:
        for _ in range(1000):
            await connection.send_str(f"m {H}")
        assert connection._writer is not None
        assert connection._writer.transport is not None
        connection._writer.transport.abort()


async def test_plain_http_is_told_what_this_is(bad_input_server: ServerProcess, witness: None) -> None:
    url = bad_input_server.addresses[2].replace("ws://", "http://")
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status in (200, 426)
        assert "hash equivalence" in (await response.text()).lower()


@pytest.mark.parametrize("transport", [0, 1, 2])
async def test_the_server_is_none_the_worse(bad_input_server: ServerProcess, transport: int) -> None:
    """The last test of the file: what is right is stored and found."""
    address = bad_input_server.addresses[transport]
    channel = await connect(address)
    async with asyncio.timeout(LIMIT):
        for line in [*HELLO.decode().splitlines(), report(taskhash=f"t{transport}").decode().rstrip("\n")]:
            await channel.send(line, chunked=False)
        said = json.loads(await channel.receive(chunked=False) or "null")
    assert said == {"method": "m", "taskhash": f"t{transport}", "unihash": H}
    await channel.close()


async def test_a_refusal_is_not_lost_behind_input_that_nobody_reads(
    bad_input_server: ServerProcess,
) -> None:
    for _ in range(10):
        answer = await converse(bad_input_server, HELLO + b'{"get": {"method": "m"}}\n' + b'{"ping": {}}\n' * 20_000)
        assert b"'taskhash' is missing" in answer


async def test_clients_that_vanish_in_a_message_leave_no_memory_behind(bad_input_server: ServerProcess) -> None:
    coordinator = psutil.Process(bad_input_server.process.pid)
    part = HELLO + b'{"chunk-stream": null}\n{"report": "\n' + (b"x" * 32000 + b"\n") * 200
    host, _, port = bad_input_server.address.rpartition(":")
    before = coordinator.memory_info().rss
    descriptors = coordinator.num_fds()
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(part)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(LIMIT):
            while coordinator.num_fds() > descriptors:  # noqa: ASYNC110  # another process has no event
                await asyncio.sleep(0.01)
    assert coordinator.memory_info().rss - before < 10 * len(part)
