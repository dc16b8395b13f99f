"""Limits at a real server: each attack of a kind once, small, beside a client that has to get its answers."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from shardhash.client import InvokeError, create_async_client
from shardhash.wire.framing import encode_json
from tests.certificates import Authority
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
LIMIT = 30.0
TIGHT = ("hello_time=1s", "first_time=1s", "message_time=1s", "write_time=1s", "memory=8M", "peer_connections=40")


def limits(*texts: str) -> list[str]:
    return [*IN_MEMORY, *(part for text in texts for part in ("--limit", text))]


@pytest.fixture
def tight(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A server with tight limits; its addresses are tcp and ws."""
    return start_server(*limits(*TIGHT), binds=["127.0.0.1:0", "ws://127.0.0.1:0"])


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.removeprefix("ws://").rstrip("/").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader: asyncio.StreamReader) -> bytes:
    """All that the server says until it closes."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(LIMIT):
            while more := await reader.read(1 << 16):
                said += more
    return said


async def until(true: Callable[[], bool]) -> None:
    """Look now and then: what it waits for happens in another process."""
    while not true():  # noqa: ASYNC110  # there is nothing to be told by
        await asyncio.sleep(0.05)


@asynccontextmanager
async def witness(server: ServerProcess) -> AsyncIterator[Callable[[], int]]:
    """A client that asks all the time and finds what it reported; gives how often it was answered."""
    answered, done = 0, asyncio.Event()
    async with await create_async_client(server.address) as client:
        digest = secrets.token_hex(32)
        await client.report_unihash(digest, "witness", digest, digest)

        async def ask() -> None:
            nonlocal answered
            while not done.is_set():
                assert await client.get_unihash("witness", digest) == digest
                answered += 1
                await asyncio.sleep(0.005)

        asking = asyncio.create_task(ask())
        try:
            yield lambda: answered
        finally:
            done.set()
            await asking
        assert answered > 0


Opening = Callable[[ServerProcess], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def opening(data: bytes, index: int = 0) -> Opening:
    async def begin(server: ServerProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect(server.addresses[index])
        writer.write(data)
        return reader, writer

    return begin


@pytest.mark.parametrize(
    "begin",
    [
        opening(b""),
        opening(b"OEHASHEQUIV 1.1\nneeds"),
        opening(HELLO),
        opening(HELLO + b'{"ping"'),
        opening(HELLO + b'{"ping": {}}\n{"chunk-stream": null}\nabc\n'),
        opening(b"", 1),
        opening(b"GET / HTTP/1.1\r\nHost: x\r\n", 1),
    ],
)
async def test_who_does_not_get_on_is_closed(tight: ServerProcess, begin: Opening) -> None:
    async with witness(tight):
        reader, writer = await begin(tight)
        assert b"invoke-error" not in await closed(reader)
        writer.close()


async def test_who_reads_nothing_is_closed_and_leaves_nothing(tight: ServerProcess) -> None:
    process = psutil.Process(tight.process.pid)
    async with witness(tight):
        async with await create_async_client(tight.address) as client:
            await client.report_unihash("ab" * 32, "m", "ab" * 32, "ab" * 32, {"outhash_siginfo": "x" * 3_000_000})
        before = process.num_fds()
        writers = []
        for _ in range(5):
            _, writer = await connect(tight.address)
            writer.write(HELLO + (b'{"get": {"method": "m", "taskhash": "%s", "all": true}}\n' % (b"ab" * 32)) * 20)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writers.append(writer)
        async with asyncio.timeout(LIMIT):
            await until(lambda: process.num_fds() > before)
            await until(lambda: process.num_fds() <= before)
        for writer in writers:
            writer.transport.abort()


async def test_unfinished_messages_are_dropped_before_memory_is_spent(tight: ServerProcess) -> None:
    async with witness(tight):
        ends = [await connect(tight.address) for _ in range(8)]
        pieces = b'{"report": "\n' + (b"x" * 32767 + b"\n") * 64  # 2 MiB of each, of 8 that all may hold
        for _, writer in ends:
            writer.write(HELLO + b'{"chunk-stream": null}\n' + pieces)
        assert await asyncio.gather(*(closed(reader) for reader, _ in ends)) == [b""] * 8
        for _, writer in ends:
            writer.close()


async def test_who_asks_little_goes_on_while_others_hold_much(start_server: Callable[..., ServerProcess]) -> None:
    """Over half of the budget nothing is read from those who hold much, for as long as they have time."""
    server = start_server(*limits("memory=8M"))
    ends = [await connect(server.address) for _ in range(8)]
    for _, writer in ends:
        writer.write(HELLO + b'{"chunk-stream": null}\n{"report": "\n')
        writer.write((b"x" * 30_000 + b"\n") * 20)  # 5 of 8 MiB together
        await writer.drain()
    async with asyncio.timeout(LIMIT), await create_async_client(server.address) as client:
        for number in range(50):  # none of these is known, nor at hand
            assert await client.get_unihash("m", f"{number:064x}") is None
            await client.report_unihash(f"{number:064x}", "m", f"{number:064x}", f"{number:064x}")
    assert not any(reader.at_eof() for reader, _ in ends)
    for _, writer in ends:
        writer.transport.abort()


async def test_a_host_has_its_share_of_connections_and_gets_it_back(tight: ServerProcess) -> None:
    async with witness(tight) as answered:
        ends = []
        for _ in range(60):  # the limit is 40; those that ask nothing give way to those that come
            reader, writer = await connect(tight.address)
            writer.write(HELLO + b'{"ping": {}}\n')
            ends.append((reader, writer))
        said = await asyncio.gather(*(asyncio.wait_for(_line(reader), LIMIT) for reader, _ in ends))
        assert 30 <= said.count(b'{"alive":true}\n') < 60
        before = answered()
        for _, writer in ends:
            writer.transport.abort()
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    async with await create_async_client(tight.address) as client:
                        await client.get_unihash("m", "00" * 32)
                    break
                except ConnectionError:
                    await asyncio.sleep(0.05)
        assert answered() >= before


async def _line(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        return await reader.readline()
    return b""


async def test_a_flood_of_pings_holds_up_nobody_and_no_signal(server: ServerProcess) -> None:
    """The worker's heartbeat, other clients and SIGTERM share the loop with it."""
    reader, writer = await connect(server.address)
    flooding = True

    async def flood() -> None:
        writer.write(HELLO)
        while flooding:
            writer.write(b'{"ping": {}}\n' * 20_000)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0)

    async def swallow() -> None:
        with suppress(ConnectionError):
            while await reader.read(1 << 20):
                pass

    tasks = [asyncio.create_task(flood()), asyncio.create_task(swallow())]
    async with witness(server) as answered:
        async with asyncio.timeout(LIMIT):
            await until(lambda: answered() > 50)
        server.process.send_signal(signal.SIGUSR1)
    flooding = False
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, LIMIT) == 0
    assert time.monotonic() - began < LIMIT
    writer.transport.abort()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "message",
    [
        b'{"ping": [' + b"1," * 300_000 + b"1]}",
        b'{"ping": [' + b"9" * 4299 + b"]}",
        b'{"ping": [' + b",".join([b"9" * 4299] * 1000) + b"]}",
        b'{"ping": "\\ud800' + b"x" * 2_000_000 + b'"}',
    ],
)
async def test_messages_that_are_costly_to_parse_are_refused(server: ServerProcess, message: bytes) -> None:
    async with witness(server):
        reader, writer = await connect(server.address)
        writer.write(HELLO + encode_json(message))
        said = await closed(reader)
        assert b"alive" not in said
        writer.close()


async def test_who_logged_in_sends_no_more_than_its_rights_allow(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY, "--admin-user", "admin", "--admin-password", "secret", "--anon-perms", "")
    row = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "ab" * 32}
    async with await create_async_client(server.address, "admin", "secret") as admin:
        reader = await admin.new_user("reader", ["@read", "@report"])
        siginfo = "".join(secrets.token_hex(1000) for _ in range(3000))
        await admin.report_unihash("t", "m", "o", "ab" * 32, {"outhash_siginfo": siginfo})
        found = await admin.get_taskhash("m", "t", all_properties=True)
        assert found is not None
        assert found["outhash_siginfo"] == siginfo
        refused = b"not allowed to access permissions(s) "
        for login, message, said in (
            (None, {"report": row | {"outhash_siginfo": "x" * 300_000}}, refused + b"@read; log in"),
            (reader, {"report": row | {"outhash_siginfo": "x" * 60_000_000}}, b""),
            (reader, {"import-batch": {"mappings": ["x" * 300_000]}}, refused + b"@db-admin"),
            (reader, {"get": "x" * 300_000}, b"get: a request has at most 256 KiB"),
        ):
            stream, writer = await connect(server.address)
            writer.write(HELLO)
            if login is not None:
                asked = {"username": login["username"], "token": login["token"]}
                writer.write(json.dumps({"auth": asked}).encode() + b"\n")
                assert b"true" in await asyncio.wait_for(stream.readline(), LIMIT)
            writer.write(encode_json(json.dumps(message).encode()))
            answer = await closed(stream)
            assert said in answer
            assert bool(said) == (b"invoke-error" in answer)
            writer.transport.abort()
        assert (await admin.get_user())["username"] == "admin"  # type: ignore[index]


async def test_tiny_pieces_and_many_methods_are_answered(server: ServerProcess) -> None:
    """They are legal; they cost their sender time, and nobody else."""
    async with witness(server):
        reader, writer = await connect(server.address)
        message = json.dumps({"get": {"method": "m", "taskhash": "t" * 100_000, "all": False}}).encode()
        pieces = b"".join(message[at : at + 1] + b"\n" for at in range(len(message)))
        lines = b"".join(b"m%d t\n" % number for number in range(30_000))
        writer.write(HELLO + b'{"chunk-stream": null}\n' + pieces + b"\n" + b'{"ping": {}}\n')
        async with asyncio.timeout(LIMIT):
            first = await reader.readline()
        writer.close()
        assert first == b"null\n" or b"invoke-error" in first
        reader, writer = await connect(server.address)
        writer.write(HELLO + b'{"get-stream": null}\n' + lines + b"END\n")
        async with asyncio.timeout(LIMIT):
            assert await reader.readexactly(5 + 30_000 + 3) == b'"ok"\n' + b"\n" * 30_000 + b"ok\n"
        writer.close()


async def test_a_batch_over_the_limit_is_refused_in_words(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*limits("batch=1000"), binds=["ws://127.0.0.1:0"])
    async with await create_async_client(server.address, block=1001) as client:
        with pytest.raises(InvokeError, match="at most 1000 hashes here, not 1001"):
            await client.get_unihashes("m", bytes(32 * 1001))
    async with await create_async_client(server.address, block=1000) as client:
        assert await client.get_unihash_batch([("m", "00" * 32)] * 1001) == [None] * 1001


async def test_what_nothing_uses_any_more_is_dropped(tmp_path: Path) -> None:
    """Details and methods by the thousand, before and after a restart; details are cut off at their limit."""
    data, count = str(tmp_path / "data"), 200
    options = ("--data", data, "--workers", "2", "--limit", "detail=2K")
    for _ in range(2):
        with ServerProcess(*options) as server:
            workers = psutil.Process(server.process.pid).children()
            async with await create_async_client(server.address) as client:
                await client.report_unihash("ab" * 32, "kept", "ab" * 32, "ab" * 32, {"PN": "k" * 5000})
                before = sum(worker.memory_info().rss for worker in workers)
                rows = [
                    {"taskhash": f"{n:064x}", "method": f"m{n}", "outhash": f"{n:064x}", "unihash": f"{n:064x}"}
                    | {name: f"{n} {name} ".ljust(60_000, "x") for name in ("owner", "PN", "PV", "PR", "task")}
                    for n in range(count)
                ]
                for start in range(0, count, 10):
                    await client.report_unihash_batch(rows[start : start + 10])
                    if start % 100 == 90:
                        for row in rows[start - 90 : start + 10]:
                            assert (await client.remove({"method": row["method"]}))["count"] == 2
                await client.remove({"taskhash": f"{0:064x}"})
                assert await client.unihash_exists_batch([f"{n:064x}" for n in range(count)]) == [False] * count
                kept = await client.get_taskhash("kept", "ab" * 32, all_properties=True)
                assert kept is not None
                assert kept["PN"] == "k" * 2048
                assert (await client.get_db_usage())["outhashes_v2"]["rows"] == 1
                after = sum(worker.memory_info().rss for worker in workers)
                assert after - before < 30 << 20  # their texts have 60 MB as they were sent


async def test_a_removal_ends_when_its_client_leaves(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """The next one need not wait for it."""
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2")
    async with await create_async_client(server.address) as client:
        rows = [
            {"taskhash": f"{number:064x}", "method": "m", "outhash": f"{number:064x}", "unihash": f"{number:064x}"}
            for number in range(5000)
        ]
        await client.report_unihash_batch(rows)
        for _ in range(20):
            _, writer = await connect(server.address)
            writer.write(HELLO + b'{"remove": {"where": {"outhash_siginfo": "none"}}}\n')
            await writer.drain()
            writer.close()
        async with asyncio.timeout(LIMIT):
            assert (await client.remove({"PN": "none"}))["count"] == 0
            assert await client.get_unihash("m", f"{1:064x}") == f"{1:064x}"


async def test_marks_that_look_at_everything_end_when_their_client_leaves(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2", "--log", "WARNING")
    async with await create_async_client(server.address) as client:
        names = ("taskhash", "outhash", "unihash")
        rows = [{"method": "m"} | dict.fromkeys(names, f"{number:064x}") for number in range(20_000)]
        await client.report_unihash_batch(rows)
        for _ in range(3):
            reader, writer = await connect(server.address)
            lines = b"".join(b'{"mark": "m%d", "where": {"gc_mark": "none"}}\n' % (n % 2) for n in range(10_000))
            writer.write(HELLO + b'{"gc-mark-stream": null}\n' + lines)
            await writer.drain()
            assert await asyncio.wait_for(reader.readline(), LIMIT) == b'"ok"\n'
            writer.close()
        async with asyncio.timeout(LIMIT):
            assert await client.gc_mark("mine", {"unihash": f"{1:064x}"}) == {"count": 1}
        assert (await client.gc_status())["mark"] == "mine"


async def test_the_right_password_does_not_wait_behind_guesses(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY, "--admin-user", "admin", "--admin-password", "secret")
    async with await create_async_client(server.address, "admin", "secret"):
        pass
    ends = [await connect(server.address) for _ in range(60)]
    for _, writer in ends:
        writer.write(HELLO + b'{"auth": {"username": "admin", "token": "guess"}}\n')
    async with asyncio.timeout(LIMIT), await create_async_client(server.address, "admin", "secret") as client:
        assert (await client.get_user())["username"] == "admin"  # type: ignore[index]
        waiting = [reader for reader, _ in ends if not reader.at_eof()]
        assert waiting, "it was answered before all guesses were"
    for _, writer in ends:
        writer.transport.abort()


async def test_a_deletion_does_not_wait_behind_new_tokens(start_server: Callable[..., ServerProcess]) -> None:
    """Of a hundred and fifty that a builder asks for at one time the server gives ten a second."""
    server = start_server(*IN_MEMORY, "--admin-user", "admin", "--admin-password", "secret")
    async with await create_async_client(server.address, "admin", "secret") as client:
        token = (await client.new_user("builder", ["@read"]))["token"]
        ends = [await connect(server.address) for _ in range(150)]
        auth = json.dumps({"auth": {"username": "builder", "token": token}}).encode()
        for _, writer in ends:
            writer.write(HELLO + auth + b'\n{"refresh-token": {}}\n')
        await asyncio.gather(*(ends[0][0].readline(), ends[-1][0].readline()))
        async with asyncio.timeout(LIMIT):
            await client.delete_user("builder")
    said = await asyncio.gather(*(closed(reader) for reader, _ in ends))
    assert sum(b'"token"' in one for one in said) < 100, "it did not wait for all"
    for _, writer in ends:
        writer.transport.abort()


async def test_a_tls_handshake_that_does_not_come_is_closed(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path / "authority", "authority").sign("localhost")
    arguments = [*limits("hello_time=1s"), "--tls-cert", str(certificate), "--tls-key", str(key)]
    server = start_server(*arguments, binds=["tls://127.0.0.1:0", "127.0.0.1:0"])
    reader, writer = await connect(server.address.removeprefix("tls://"))
    assert await closed(reader) == b""
    writer.close()
    async with await create_async_client(server.addresses[1]) as client:
        assert await client.get_unihash("m", "00" * 32) is None


async def test_who_is_gone_while_nothing_is_read_from_it_is_forgotten(
    start_server: Callable[..., ServerProcess],
) -> None:
    """A server that waits for room to read on is told of no reset."""
    server = start_server(*limits("memory=1M", "message_time=1h", "hello_time=1h"))
    process = psutil.Process(server.process.pid)
    async with witness(server):
        before = process.num_fds()
        for _ in range(20):
            _, writer = await connect(server.address)
            writer.write(HELLO + b'{"get-stream": null}\n' + (b"m " + b"ab" * 32 + b"\n") * 20_000)
            await asyncio.sleep(0)
            writer.transport.abort()
        async with asyncio.timeout(LIMIT):
            await until(lambda: process.num_fds() <= before)


async def test_requests_of_connections_that_gave_way_are_no_error_of_the_server(
    start_server: Callable[..., ServerProcess],
) -> None:
    """A connection may be dropped between its request and its answer."""
    server = start_server(*limits("connections=4"), binds=["127.0.0.1:0", "ws://127.0.0.1:0"])
    for _ in range(20):
        ends = await asyncio.gather(*(connect(server.addresses[1]) for _ in range(60)))
        for _, writer in ends:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await asyncio.gather(*(closed(reader) for reader, _ in ends))
        for _, writer in ends:
            writer.transport.abort()
    async with await create_async_client(server.address) as client:
        assert await client.ping()
    said = server.log.read()
    assert "gave_way" in said or "asked nothing" in said
    assert "Traceback" not in said
