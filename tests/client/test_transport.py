"""What the transports promise: any path, no deadlock, nothing left over after a cancelled call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shardhash.client import create_async_client
from shardhash.errors import ConfigError
from tests.client.older_server import OlderServer

METHOD = "oe.sstatesig.OEOuthashBasic"


async def test_a_unix_path_may_be_long(older: OlderServer, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with older.listen("unix", tmp_path) as address:
        Path(address.removeprefix("unix://")).rename(deep / "server.sock")  # noqa: ASYNC240
        async with await create_async_client(f"unix://{deep}/server.sock") as client:
            assert await client.ping() == {"alive": True}


@pytest.mark.parametrize("address", ["", "nowhere", "ftp://host:1", "host:0", "ws://"])
async def test_a_bad_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        await create_async_client(address)


async def test_full_buffers_on_both_sides(older: OlderServer, older_address: str) -> None:
    """The server writes an answer before it reads the next line, so somebody must read them meanwhile."""
    older.mappings = {(METHOD * 20, f"{i:064x}"): f"{i + 1:064x}" for i in range(10_000)}
    async with await create_async_client(older_address) as client:
        assert await client.get_unihash_batch(older.mappings) == list(older.mappings.values())


async def test_a_cancelled_call_leaves_no_answers_behind(native: OlderServer, native_address: str) -> None:
    native.mappings = {(METHOD, f"{i:064x}"): f"{i + 1:064x}" for i in range(1000)}
    async with await create_async_client(native_address, block=10) as client:
        task = asyncio.create_task(client.get_unihash_batch(native.mappings))
        await native.hears.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.get_unihash_batch(list(native.mappings)[500:]) == list(native.mappings.values())[500:]
    assert len(native.heard) == 2


async def test_tasks_take_turns(native: OlderServer, native_address: str) -> None:
    native.mappings = {(METHOD, f"{i:064x}"): f"{i + 1:064x}" for i in range(100)}
    async with await create_async_client(native_address) as client:
        answers = await asyncio.gather(*[client.get_unihash(*pair) for pair in native.mappings])
    assert answers == list(native.mappings.values())
    assert len(native.heard) == 1


async def test_a_closed_client_stays_closed(native: OlderServer, native_address: str) -> None:
    client = await create_async_client(native_address)
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.ping()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_was_lost_while_nobody_asked(
    native: OlderServer, kind: str, tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        native.mappings = {(METHOD * 20, f"{i:064x}"): f"{i + 1:064x}" for i in range(2000)}
        async with native.listen(kind, tmp_path) as address:
            client = await create_async_client(address, native=False)
            assert await client.get_unihash_batch(native.mappings) == list(native.mappings.values())
        stream: Any = client._server._connection._transport._stream  # type: ignore[union-attr]
        await stream._lost
        with pytest.raises(ConnectionError, match=r"refused|no such file"):
            await client.ping()
        await client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
