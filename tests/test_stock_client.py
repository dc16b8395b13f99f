"""The transport of the stock client, BitBake's own, against a real server: framing, chunks, headers, refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shardhash.client import create_async_client
from tests.servers import IN_MEMORY, ServerProcess

asyncrpc = pytest.importorskip("bb.asyncrpc")

H = "ab" * 32
METHOD = "oe.sstatesig.OEOuthashBasic"
Connect = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def stock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all of this file; each test has methods or hashes of its own."""
    path = tmp_path_factory.mktemp("socket") / "server.sock"
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", f"unix://{path}", "ws://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture(params=["tcp", "unix", "ws"])
async def stock(request: pytest.FixtureRequest, stock_server: ServerProcess) -> AsyncIterator[Connect]:
    """Connects stock clients over one transport; takes options of bb.asyncrpc.AsyncClient."""
    clients: list[Any] = []

    async def connect(**options: Any) -> Any:
        client = asyncrpc.AsyncClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"), **options)
        clients.append(client)
        tcp, unix, websocket = stock_server.addresses
        match request.param:
            case "tcp":
                host, _, port = tcp.rpartition(":")
                await client.connect_tcp(host, int(port))
            case "unix":
                await client.connect_unix(unix.removeprefix("unix://"))
            case _:
                await client.connect_websocket(websocket)
        return client

    yield connect
    for client in clients:
        await client.close()


@pytest.mark.parametrize("size", [32_700, 33_000, 200_000])
@pytest.mark.parametrize("letters", ["x", "é€😀\n"])
async def test_long_messages_both_ways(stock: Connect, size: int, letters: str) -> None:
    client = await stock()
    method, siginfo = uuid4().hex, letters * (size // len(letters))
    fields = {"method": method, "taskhash": "t", "outhash": "o", "unihash": H, "outhash_siginfo": siginfo}
    assert await client.invoke({"report": fields}) == {"method": method, "taskhash": "t", "unihash": H}
    row = await client.invoke({"get": {"method": method, "taskhash": "t", "all": True}})
    assert row["outhash_siginfo"] == siginfo
    assert await client.ping() == {"alive": True}


async def test_stream(stock: Connect) -> None:
    client = await stock()
    await client.invoke({"report-equiv": {"method": METHOD, "taskhash": H, "unihash": H}})
    assert await client.invoke({"get-stream": None}) == "ok"
    for line in [f"{METHOD} {H}", f"{METHOD} none", "END"]:
        await client.socket.send(line)
    assert [await client.socket.recv() for _ in range(3)] == [H, "", "ok"]
    assert await client.ping() == {"alive": True}


async def test_server_headers(stock: Connect) -> None:
    client = await stock(server_headers=True)
    assert await client.ping() == {"alive": True}
    assert await client.get_header("shardhash-batch", None) == "1"


async def test_a_refusal_raises_and_the_client_goes_on(stock: Connect) -> None:
    client = await stock()
    with pytest.raises(asyncrpc.InvokeError, match="get: 'taskhash' is missing"):
        await client.invoke({"get": {"method": METHOD}})
    assert await client.ping() == {"alive": True}


async def test_an_unknown_command_closes(stock: Connect) -> None:
    client = await stock()
    with pytest.raises((asyncrpc.ConnectionClosedError, ConnectionError)):
        await client.invoke({"no-such-command": {}})


async def test_an_expired_token_is_refused_in_words(tmp_path: Path) -> None:
    """A connection that came in by it ends when it does; a new one is told why."""
    secret = {"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "password"}
    with ServerProcess(*IN_MEMORY, binds=[f"unix://{tmp_path}/s.sock"], environment=secret) as server:
        async with await create_async_client(server.address, "admin", "password") as admin:
            token = (await admin.new_user("builder", ["@read"], 2))["token"]
            first = asyncrpc.AsyncClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"))
            await first.connect_unix(str(tmp_path / "s.sock"))
            login = {"auth": {"username": "builder", "token": token}}
            assert (await first.invoke(login))["result"] is True
            reader = first.socket.reader
            assert await asyncio.wait_for(reader.read(), 60) == b"", "the server closes it when the token ends"
            second = asyncrpc.AsyncClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"))
            await second.connect_unix(str(tmp_path / "s.sock"))
            with pytest.raises(asyncrpc.InvokeError, match="as builder: this token expired at 20"):
                await second.invoke(login)
            await first.close()
            await second.close()
