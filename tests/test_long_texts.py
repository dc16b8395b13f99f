"""Siginfo of megabytes at a real server: what was reported comes back, and what is held or refused on the way."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardhash.client import InvokeError, create_async_client
from shardhash.wire.framing import encode_json
from tests.servers import IN_MEMORY, ServerProcess
from tests.test_limits import HELLO, LIMIT, connect

LINE = 'drwxr-xr-x root "é" \\ usr/lib \U0001f600\n'
PLACE = ("taskhash", "method", "outhash")


def row(siginfo: str) -> dict[str, Any]:
    return {
        "method": "m",
        "taskhash": secrets.token_hex(32),
        "outhash": secrets.token_hex(32),
        "unihash": secrets.token_hex(32),
        "PN": "long",
        "outhash_siginfo": siginfo,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("place", ["disk", "memory"])
async def test_what_was_reported_comes_back(place: str, start_server: Callable[..., ServerProcess], data: Path) -> None:
    """By each transport and each question, alone and among others, and after a restart."""
    arguments = ["--workers", "2", *(IN_MEMORY if place == "memory" else ["--data", str(data)])]
    server = start_server(*arguments, binds=["127.0.0.1:0", "ws://127.0.0.1:0"])
    rows = [row(LINE * count) for count in (1, 500, 2_000, 20_000)]
    rows += [row("x" * 1_000_000), row("\0\n" * 50_000)]
    addresses = (server.address, server.addresses[1])
    for address in addresses:
        async with await create_async_client(address) as client:
            for one in rows[::2]:
                extra = {name: one[name] for name in ("PN", "outhash_siginfo")}
                await client.report_unihash(one["taskhash"], "m", one["outhash"], one["unihash"], extra)
            await client.report_unihash_batch(rows)
    if place == "disk":
        assert server.stop() == 0
        server = start_server(*arguments, binds=["127.0.0.1:0", "ws://127.0.0.1:0"])
        addresses = (server.address, server.addresses[1])
    for address in addresses:
        async with await create_async_client(address) as client:
            for one in rows:
                due = one["outhash_siginfo"]
                found = await client.get_taskhash("m", one["taskhash"], all_properties=True)
                assert found is not None
                assert found["outhash_siginfo"] == due
                found = await client.get_outhash("m", one["outhash"], one["taskhash"])
                assert found is not None
                assert found["outhash_siginfo"] == due
                found = await client.get_row("m", one["taskhash"], one["outhash"])
                assert found is not None
                assert found["outhash_siginfo"] == due
            whole = await client.find({"PN": "long"}, 100, whole=True)
            texts = {one["outhash"]: one["outhash_siginfo"] for one in whole["rows"]}
            assert texts == {one["outhash"]: one["outhash_siginfo"] for one in rows}
    async with aiohttp.ClientSession() as session:
        url = addresses[1].replace("ws://", "http://").rstrip("/") + "/api/ask"
        async with session.post(url, json={"get-row": {name: rows[3][name] for name in PLACE}}) as response:
            assert (await response.json())["outhash_siginfo"] == rows[3]["outhash_siginfo"]
    async with await create_async_client(addresses[0]) as client:
        gone = await client.remove({"outhash_siginfo": rows[2]["outhash_siginfo"]})
        assert gone["count"] == 1
        assert await client.get_row("m", rows[2]["taskhash"], rows[2]["outhash"]) is None
        assert await client.get_row("m", rows[3]["taskhash"], rows[3]["outhash"]) is not None


async def test_an_imported_text_comes_back(server: ServerProcess) -> None:
    one = row(LINE * 20_000)
    imported = {name: value for name, value in one.items() if name != "unihash"} | {"created": 1_700_000_000_000_000}
    async with await create_async_client(server.address) as client:
        small = dict(imported, taskhash=secrets.token_hex(32), outhash_siginfo="small")
        answer = await client.import_batch(rows=[imported, small])
        assert answer["rows"] == ["new", "new"]
        assert (await client.import_batch(rows=[imported]))["rows"] == ["known"]
        for each in (imported, small):
            found = await client.get_row("m", each["taskhash"], each["outhash"])
            assert found is not None
            assert found["outhash_siginfo"] == each["outhash_siginfo"]


async def test_half_a_surrogate_pair_fails_no_long_report(server: ServerProcess) -> None:
    """File names that are no UTF-8 get there as lone surrogates."""
    one = row("file \udcff name\n" * 50_000)
    reader, writer = await connect(server.address)
    writer.write(HELLO + encode_json(json.dumps({"report": one}).encode()))
    async with asyncio.timeout(LIMIT):
        answer = json.loads(await reader.readline())
    writer.close()
    assert answer["unihash"] == one["unihash"]
    async with await create_async_client(server.address) as client:
        found = await client.get_row("m", one["taskhash"], one["outhash"])
    assert found is not None
    assert found["outhash_siginfo"] == one["outhash_siginfo"].encode("utf-8", "surrogatepass").decode(
        "utf-8", "replace"
    )


async def test_what_is_long_without_texts_is_refused_in_words(server: ServerProcess) -> None:
    hashes = [secrets.token_hex(32) for _ in range(19_000)]
    async with await create_async_client(server.address) as client:
        with pytest.raises(InvokeError, match="at most 768 KiB without the outhash_siginfo of reports"):
            await client.import_batch(mappings=[{"method": "m", "taskhash": one, "unihash": one} for one in hashes])
    async with await create_async_client(server.address, native=False) as client:
        assert await client.get_unihash_batch([("m", one) for one in hashes]) == [None] * len(hashes)


async def test_who_reads_no_long_answer_is_dropped_for_the_memory_of_all(
    start_server: Callable[..., ServerProcess],
) -> None:
    """A text waits in the server until its client reads it, and counts until then."""
    server = start_server(*IN_MEMORY, "--limit", "memory=12M")
    one = row("x" * 5_500_000)  # of which the kernel holds 2.5 to 4.5 MB for each that reads nothing
    async with await create_async_client(server.address) as client:
        await client.report_unihash(
            one["taskhash"], "m", one["outhash"], one["unihash"], {"outhash_siginfo": one["outhash_siginfo"]}
        )
        unread = [await connect(server.address) for _ in range(24)]
        for _, writer in unread:
            asked = {"get": {"method": "m", "taskhash": one["taskhash"], "all": True}}
            writer.write(HELLO + (json.dumps(asked).encode() + b"\n") * 2)
        async with asyncio.timeout(LIMIT):
            while "dropped: it holds" not in server.log.read():
                assert await client.get_unihash("m", one["taskhash"]) == one["unihash"]
        for _, writer in unread:
            writer.transport.abort()


async def test_a_long_request_behind_others_comes_in(server: ServerProcess) -> None:
    """What waits to be parsed stops the reading of more, also when it is the beginning of a request."""
    rows = [row("") for _ in range(1500)]
    reports = [rows[:1000], [row(LINE * 100_000)], rows[1000:]]
    reader, writer = await connect(server.address)
    writer.write(HELLO + b'{"ping": {}}\n' * 1000)
    for some in reports:
        writer.write(encode_json(json.dumps({"report-batch": {"reports": some}}).encode()))
    async with asyncio.timeout(LIMIT):
        for _ in range(1000):
            assert json.loads(await reader.readline()) == {"alive": True}
        for some in reports:
            answer = json.loads(await reader.readline())
            if "chunk-stream" in answer:
                answer = json.loads(b"".join([piece.strip() async for piece in _pieces(reader)]))
            assert answer["unihashes"] == [one["unihash"] for one in some]
    writer.close()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := (await reader.readline()).strip():
        yield piece
