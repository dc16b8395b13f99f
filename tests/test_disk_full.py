"""A disk without space, as a real server meets it: reports are refused in words, lookups go on, and it heals.

The limit on the size of files (RLIMIT_FSIZE) stands in for the disk: a write is cut short and the next one fails.
"""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import psutil
import pytest
from aiohttp import ClientSession

from shardhash.client import AsyncClient, create_async_client
from shardhash.errors import InvokeError
from tests.servers import ServerProcess

pytestmark = pytest.mark.once

METHOD = "m"
LIMIT = 6_000
"""Bytes that a file may have: a dozen records."""


def hash_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" * 2


def limit_files(server: ServerProcess, size: int) -> None:
    for worker in psutil.Process(server.process.pid).children():
        worker.rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def report(client: AsyncClient, number: int) -> str:
    details = {"PN": "p", "task": "do_x", "outhash_siginfo": f"siginfo {number}"}
    answer = await client.report_unihash(hash_of(number), METHOD, hash_of(-number), hash_of(number), details)
    unihash: str = answer["unihash"]
    return unihash


async def check(address: str, acknowledged: dict[int, str], count: int) -> None:
    async with await create_async_client(address) as client:
        for number in range(1, count + 1):
            found = await client.get_unihash(METHOD, hash_of(number))
            assert found == acknowledged.get(number), number
            row = await client.get_taskhash(METHOD, hash_of(number), all_properties=True)
            assert (row is not None) == (number in acknowledged)
            assert row is None or row["outhash_siginfo"] == f"siginfo {number}"


def refused_number(acknowledged: dict[int, str]) -> int:
    return next(number for number in range(1, 61) if number not in acknowledged)


async def stock_report(address: str, number: int) -> bytes:
    """What a client that asks for no headers gets for a report: all until the server closes."""
    lines = [
        "OEHASHEQUIV 1.1", "needs-headers: false", "",
        json.dumps({"report": {
            "method": METHOD, "taskhash": hash_of(number), "outhash": hash_of(-number), "unihash": hash_of(number),
            "outhash_siginfo": "x" * 10_000,
        }}),
    ]  # fmt: skip
    said = b""
    async with asyncio.timeout(30):
        if address.startswith("ws://"):
            async with ClientSession() as session, session.ws_connect(address) as socket:
                for line in lines:
                    await socket.send_str(line)
                async for message in socket:
                    said += message.data.encode()
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write("".join(line + "\n" for line in lines).encode())
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
    return said


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "ws://127.0.0.1:0"])
async def test_a_full_disk_refuses_reports_until_there_is_space(tmp_path: Path, bind: str) -> None:
    arguments = ("--data", str(tmp_path / "data"), "--workers", "2")
    acknowledged: dict[int, str] = {}
    with ServerProcess(*arguments, binds=[bind]) as server:
        limit_files(server, LIMIT)
        refusals = []
        for number in range(1, 61):
            async with await create_async_client(server.address) as client:
                try:
                    acknowledged[number] = await report(client, number)
                except InvokeError as error:
                    refusals.append(str(error))
        assert acknowledged
        assert len(refusals) > 10
        assert all("cannot be written" in refusal for refusal in refusals)
        assert await stock_report(server.address, refused_number(acknowledged)) == b"", "a refusal would fail the build"
        await check(server.address, acknowledged, 60)
        limit_files(server, resource.RLIM_INFINITY)
        async with await create_async_client(server.address) as client:
            for number in range(31, 61):
                acknowledged[number] = await report(client, number)
        await check(server.address, acknowledged, 60)
        server.kill()
    with ServerProcess(*arguments, binds=[bind]) as server:
        await check(server.address, acknowledged, 60)


async def refused(address: str, number: int) -> str:
    async with await create_async_client(address) as client:
        with pytest.raises(InvokeError) as refusal:
            await report(client, number)
    return str(refusal.value)


async def test_what_begins_on_a_full_disk_serves_lookups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies then, and a server that starts; both go on by themselves once there is space."""
    arguments = ("--data", str(tmp_path / "data"), "--workers", "2")
    acknowledged: dict[int, str] = {}
    with ServerProcess(*arguments) as server:
        async with await create_async_client(server.address) as client:
            for number in range(1, 11):
                acknowledged[number] = await report(client, number)
        coordinator = psutil.Process(server.process.pid)
        coordinator.rlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))  # the next workers inherit it
        for worker in coordinator.children():
            worker.kill()
        await check(server.address, acknowledged, 12)
        assert "cannot be" in await refused(server.address, 11)
        await check(server.address, acknowledged, 12)
        coordinator.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        limit_files(server, resource.RLIM_INFINITY)
        async with await create_async_client(server.address) as client:
            acknowledged[11] = await report(client, 11)
        server.kill()
    monkeypatch.setenv("HASHSERVER_ADMIN_USER", "boss")
    monkeypatch.setenv("HASHSERVER_ADMIN_PASSWORD", "secret")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        server = ServerProcess(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with server:
        await check(server.address, acknowledged, 12)
        assert "cannot be" in await refused(server.address, 12)
        psutil.Process(server.process.pid).rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        limit_files(server, resource.RLIM_INFINITY)
        async with await create_async_client(server.address) as client:
            acknowledged[12] = await report(client, 12)
        await check(server.address, acknowledged, 12)


async def test_the_log_tells_of_a_full_disk_once(tmp_path: Path) -> None:
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "1") as server:
        limit_files(server, 30)
        for number in range(1, 30):
            assert await stock_report(server.address, number) == b""
    said = [line for line in server.log.read().splitlines() if " ERROR " in line or " WARNING " in line]
    assert len(said) == 1
    assert "lookups go on, and reports are refused until the disk takes writes again" in said[0]
