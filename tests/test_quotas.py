"""Quotas and the disk's low-water mark at real servers: no stock client's build fails, others are told in words."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from shardhash.client import AsyncClient, create_async_client
from shardhash.errors import InvokeError
from tests.servers import IN_MEMORY, ServerProcess

METHOD = "m"
LIMIT = 30.0
ADMIN = ("--admin-user", "admin", "--admin-password", "secret")
BINDS = ["127.0.0.1:0", "ws://127.0.0.1:0"]
Start = Callable[..., ServerProcess]


def hash_of(number: int) -> str:
    return f"{number:064x}"


async def report(client: AsyncClient, number: int, siginfo: str = "") -> str:
    details = {"outhash_siginfo": siginfo} if siginfo else {}
    answer = await client.report_unihash(hash_of(number), METHOD, hash_of(number), hash_of(number), details)
    unihash: str = answer["unihash"]
    return unihash


async def stock_ask(address: str, *asked: dict[str, object]) -> list[object]:
    """The answers that a client without headers gets, on one connection."""
    lines = ["OEHASHEQUIV 1.1", "needs-headers: false", "", *map(json.dumps, asked)]
    answers: list[object] = []
    async with asyncio.timeout(LIMIT):
        if address.startswith("ws://"):
            async with ClientSession() as session, session.ws_connect(address) as socket:
                for line in lines:
                    await socket.send_str(line)
                return [json.loads(await socket.receive_str()) for _ in asked]
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write("".join(line + "\n" for line in lines).encode())
        answers = [json.loads(await reader.readline()) for _ in asked]
        writer.close()
    return answers


def reported(number: int) -> dict[str, object]:
    hashes = {"taskhash": hash_of(number), "outhash": hash_of(number), "unihash": hash_of(number)}
    return {"report": {"method": METHOD, **hashes}}


def got(number: int) -> dict[str, object]:
    return {"get": {"method": METHOD, "taskhash": hash_of(number)}}


def equivalent(number: int) -> dict[str, object]:
    return {"report-equiv": {"method": METHOD, "taskhash": hash_of(number), "unihash": hash_of(number)}}


def answer(number: int) -> dict[str, str]:
    return {"taskhash": hash_of(number), "method": METHOD, "unihash": hash_of(number)}


async def metrics(address: str) -> str:
    url = address.replace("ws://", "http://").rstrip("/") + "/metrics"
    async with ClientSession() as session, session.get(url) as response:
        return await response.text()


async def status_of(address: str, path: str) -> tuple[int, str]:
    url = address.replace("ws://", "http://").rstrip("/") + path
    async with ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("index", [0, 1])
async def test_a_stock_build_over_its_quota_goes_on_and_stores_nothing(start_server: Start, index: int) -> None:
    server = start_server(*IN_MEMORY, "--limit", "peer_rows=3", binds=BINDS)
    address = server.addresses[index]
    assert await stock_ask(address, *(reported(number) for number in range(1, 7))) == [answer(n) for n in range(1, 7)]
    found = await stock_ask(address, *(got(number) for number in range(1, 7)))
    assert found == [answer(1), answer(2), answer(3), None, None, None]
    assert await stock_ask(address, equivalent(9), got(9), equivalent(2)) == [answer(9), None, answer(2)]
    async with await create_async_client(address) as client:
        with pytest.raises(InvokeError, match=r"127\.0\.0\.1 stores no more than 3 rows in a day.*peer_rows=N"):
            await report(client, 7)
    text = await metrics(server.addresses[1])
    assert 'shardhash_limits_hit_total{limit="peer_rows"} 6.0' in text
    assert 'shardhash_reports_dropped_total{reason="quota"} 6.0' in text


async def test_quotas_are_of_each_user_and_last_over_restarts(tmp_path: Path) -> None:
    arguments = ("--data", str(tmp_path / "data"), "--workers", "1", *ADMIN, "--limit", "user_siginfo=1000")
    tokens = {}
    with ServerProcess(*arguments) as server:
        async with await create_async_client(server.address, "admin", "secret") as client:
            for name in ("one", "two"):
                tokens[name] = (await client.new_user(name, ["@read", "@report"]))["token"]
        async with await create_async_client(server.address, "one", tokens["one"]) as client:
            await report(client, 1, "x" * 900)
    with ServerProcess(*arguments) as server:
        async with await create_async_client(server.address, "one", tokens["one"]) as client:
            with pytest.raises(InvokeError, match="one stores no more than 1,000 bytes of siginfo in a day"):
                await report(client, 2, "x" * 200)
        async with await create_async_client(server.address, "two", tokens["two"]) as client:
            assert await report(client, 3, "x" * 900) == hash_of(3)
            assert await client.get_unihash(METHOD, hash_of(2)) is None
    (tmp_path / "data" / "quotas.json").write_text("{")
    with ServerProcess(*arguments) as server:
        async with await create_async_client(server.address, "one", tokens["one"]) as client:
            assert await report(client, 2, "x" * 200) == hash_of(2), "a file that is damaged stops nobody"


@pytest.mark.parametrize("index", [0, 1])
async def test_a_disk_below_its_mark_stores_no_reports_until_there_is_room(
    start_server: Start, tmp_path: Path, index: int
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("limit = ['disk_refuse=100000G']\n")
    server = start_server("--config", str(file), "--data", str(tmp_path / "data"), "--workers", "1", binds=BINDS)
    address = server.addresses[index]
    server.log.wait_for("reports are answered and not stored until")
    assert await stock_ask(address, reported(1), got(1), equivalent(2), got(2)) == [answer(1), None, answer(2), None]
    async with await create_async_client(address) as client:
        with pytest.raises(InvokeError, match=r"on the server's disk.*--limit disk_refuse=SIZE lowers it"):
            await report(client, 1)
    assert await status_of(server.addresses[1], "/readyz") == (503, "not ready\n")
    assert "reports are not stored (limit disk_refuse)" in (await status_of(server.addresses[1], "/readyz?verbose"))[1]
    text = await metrics(server.addresses[1])
    assert 'shardhash_limits_hit_total{limit="disk_refuse"} 3.0' in text
    assert 'shardhash_reports_dropped_total{reason="disk-low"} 3.0' in text
    file.write_text("limit = ['disk_refuse=1', 'disk_warn=100000G']\n")
    server.process.send_signal(signal.SIGHUP)
    server.log.wait_for("below 0 MiB reports are not stored", "reports are stored again")
    async with asyncio.timeout(LIMIT):
        while await stock_ask(address, reported(1), got(1)) != [answer(1), answer(1)]:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)
    ready, text = await status_of(server.addresses[1], "/readyz?verbose")
    assert ready == 200
    assert "[!] disk:" in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_reports_end_before_the_disk_is_full_and_begin_again(start_server: Start, small_disk: Path) -> None:
    """Nobody meets ENOSPC: the log can be written all the time."""
    server = start_server("--data", str(small_disk / "data"), "--workers", "1", binds=BINDS)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(62 << 20))
    server.log.wait_for("reports are answered and not stored until")
    assert await stock_ask(server.address, reported(1), got(1)) == [answer(1), None]
    filler.unlink()
    seen = server.log.wait_for("reports are stored again")
    assert await stock_ask(server.address, reported(1), got(1)) == [answer(1), answer(1)]
    assert "No space left" not in seen


def test_config_shows_every_limit_and_who_says_so(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("limit = ['user_rows=7', 'disk_refuse=1G']\n")
    command = ["python", "-m", "shardhash", "config", "--config", str(file), "--public", "--max-message", "5M"]
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True, text=True).stdout)
    limits = found["limits"]
    assert limits["user_rows"] == {"value": "7", "source": str(file)}
    assert limits["disk_refuse"] == {"value": "1G", "source": str(file)}
    assert limits["message"] == {"value": "5M", "source": "--max-message"}
    assert limits["peer_requests"] == {"value": "2000", "source": "--public"}
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "\n##   user_rows=7 " in text


async def test_a_disk_below_its_mark_keeps_nothing_of_an_upstream(start_server: Start, tmp_path: Path) -> None:
    upstream = start_server(*IN_MEMORY)
    assert await stock_ask(upstream.address, reported(1)) == [answer(1)]
    arguments = ("--data", str(tmp_path / "data"), "--workers", "1", "--upstream", upstream.address)
    server = start_server(*arguments, "--limit", "disk_refuse=100000G")
    server.log.wait_for("reports are answered and not stored until")
    asked: list[dict[str, object]] = [got(1), {"backfill-wait": None}]
    assert (await stock_ask(server.address, *asked))[0] == answer(1)
    upstream.stop()
    assert await stock_ask(server.address, got(1)) == [None]
