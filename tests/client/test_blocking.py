"""The blocking twin: the same methods, from programs without an event loop, which fork."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardhash.client import AsyncClient, Client, InvokeError, create_client
from tests.client.older_server import OlderServer

METHOD = "oe.sstatesig.OEOuthashBasic"


@pytest.fixture
def address(native: OlderServer, kind: str, tmp_path: Path) -> Iterator[str]:
    """A server in another thread, so that this one is free to block."""
    native.mappings = {(METHOD, f"{i:064x}"): f"{i + 1:064x}" for i in range(100)}
    addresses: list[str] = []
    ready, done = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with native.listen(kind, tmp_path) as address:
            addresses.append(address)
            ready.set()
            await done.wait()

    with asyncio.Runner() as runner:
        thread = threading.Thread(target=runner.run, args=(serve(),))
        loop = runner.get_loop()
        thread.start()
        ready.wait()
        yield addresses[0]
        loop.call_soon_threadsafe(done.set)
        thread.join()


def test_every_method_has_its_twin() -> None:
    def public(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}

    assert public(AsyncClient) - public(Client) == {"disconnect"}
    assert public(Client) - public(AsyncClient) == {"after_fork", "leave_to_parent"}
    for name in public(AsyncClient) & public(Client):
        twin, original = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(twin) == inspect.signature(original)
        if name != "close":
            assert twin.__doc__ == original.__doc__
        assert not inspect.iscoroutinefunction(twin)


def test_calls_block(native: OlderServer, address: str) -> None:
    pairs = [(METHOD, f"{i:064x}") for i in range(101)]
    with create_client(address, "builder", "secret") as client:
        assert client.get_unihash_batch(pairs) == [*native.mappings.values(), None]
        assert client.ping() == {"alive": True}
        assert client.unihash_exists_batch([f"{i:064x}" for i in range(3)]) == [False, True, True]
        with pytest.raises(InvokeError):
            client.auth("builder", "wrong")
        with pytest.raises(ConnectionError):
            client.gc_status()
        assert client.get_unihash(*pairs[0]) == f"{1:064x}"
        assert client.get_unihashes(METHOD, bytes(32)).unihashes() == [bytes(31) + b"\1"]
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.ping()


def test_threads_take_turns(native: OlderServer, address: str) -> None:
    with create_client(address) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: client.get_unihash(METHOD, f"{i:064x}"), range(100))
        assert list(answers) == list(native.mappings.values())
    assert len(native.heard) == 1


async def test_not_beside_a_running_loop(native: OlderServer, native_address: str) -> None:
    with pytest.raises(RuntimeError, match="event loop is running"):
        create_client(native_address)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no such file"):
        create_client(f"unix://{tmp_path}/nobody")


FORKING = """
import json, os, sys
from shardhash.client import create_client

address, method = sys.argv[1:]
ask = lambda client, i: client.get_unihash(method, f"{i:064x}")
client = create_client(address)
answers = [ask(client, 1)]
reading, writing = os.pipe()
for user in (True, False):
    if not (child := os.fork()):
        if user:
            os.write(writing, json.dumps([ask(client, i) for i in range(20)]).encode())
            client.close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    answers += [ask(client, i) for i in range(20)]
client.close()
print(json.dumps([answers, json.loads(os.read(reading, 100_000))]))
"""


async def test_a_forked_child_has_a_connection_of_its_own(native: OlderServer, native_address: str) -> None:
    native.mappings = {(METHOD, f"{i:064x}"): f"{i + 1:064x}" for i in range(20)}
    values = list(native.mappings.values())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, native_address, METHOD),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert errors.decode() == ""
    parents, childs = json.loads(output)
    assert parents == [values[1], *values, *values]
    assert childs == values
    assert [len(heard) for heard in native.heard] == [41, 20]
