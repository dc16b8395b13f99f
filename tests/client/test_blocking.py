"""The blocking twin: the same methods, from programs without an event loop, which fork."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardhash.client import AsyncClient, Client, InvokeError, connection, create_client
from shardhash.client.in_thread import InThread
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
    assert public(Client) - public(AsyncClient) == {"after_fork"}
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


def test_a_thread_that_was_stopped_looks_once_before_it_gives_up() -> None:
    """The machine is busy: the answer came in time, and the thread that waits for it runs late. Nobody may trickle."""
    ours, theirs = socket.socketpair()
    waiting = InThread()
    with ours, theirs:

        async def receive() -> list[bytes]:
            stream = await waiting.stream(ours)
            heard = []
            for _ in range(3):
                over = stream.now()
                theirs.send(b"answer")
                heard.append(await stream.receive(over))
                theirs.send(b"more")
                with pytest.raises(TimeoutError):
                    await stream.receive(over)
                heard.append(await stream.receive(over + 60))
            with pytest.raises(TimeoutError):
                await stream.receive(stream.now())
            return heard

        assert waiting.run(receive()) == [b"answer", b"more"] * 3


def test_threads_take_turns(native: OlderServer, address: str) -> None:
    with create_client(address) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: client.get_unihash(METHOD, f"{i:064x}"), range(100))
        assert list(answers) == list(native.mappings.values())
    assert len(native.heard) == 1


def test_whole_builds_in_one_call(native: OlderServer, address: str) -> None:
    """More than buffers hold: by streams, where the server answers a line before it reads the next, and by batches."""
    native.mappings = {(METHOD * 20, f"{i:064x}"): f"{i + 1:064x}" for i in range(3000)}
    for options in ({"native": False}, {"native": True, "block": 300}, {"native": True}):
        with create_client(address, **options) as client:
            assert client.get_unihash_batch(native.mappings) == list(native.mappings.values())
            exist = client.unihash_exists_batch([*map(str, native.mappings.values()), "f" * 64])
            assert exist == [True] * 3000 + [False]


def test_long_messages(native: OlderServer, address: str) -> None:
    texts = {"PN": "é€😀\n" * 300_000, "PV": '\x00\x7f"\\', "task": None}
    with create_client(address) as client:
        for _ in range(2):
            assert client.report_unihash("1" * 64, METHOD, "2" * 64, "3" * 64, texts)["unihash"] == "3" * 64
    *_, request = native.heard[0]
    assert json.loads(request)["report"].items() >= texts.items()


def test_only_what_is_unanswered_is_asked_again(native: OlderServer, address: str) -> None:
    native.hang_ups += [4, 0, 1]
    pairs = list(native.mappings)
    with create_client(address, block=10) as client:
        assert client.get_unihash_batch(pairs) == list(native.mappings.values())
    assert [len(heard) for heard in native.heard][-1] == 5
    native.hang_ups += [31]
    with create_client(address, native=False) as client:
        assert client.get_unihash_batch(pairs) == list(native.mappings.values())
    assert str(native.heard[-1][1]).split() == list(pairs[30])


def test_a_refusal_in_a_stream(native: OlderServer, address: str) -> None:
    native.answer_override[f"{METHOD} {50:064x}"] = '{"invoke-error": {"message": "enough"}}'
    native.hang_ups.append(52)
    with create_client(address, native=False) as client, pytest.raises(InvokeError, match="enough"):
        client.get_unihash_batch(native.mappings)


def test_a_server_that_does_not_tell_its_headers(
    native: OlderServer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADERS_WITHIN", 0.05)
    native.tells_headers = False
    for _ in range(2):
        with create_client(address) as client:
            assert client.get_unihash_batch(native.mappings) == list(native.mappings.values())
    assert native.headers == [["needs-headers: true"], ["needs-headers: false"], ["needs-headers: false"]]


@pytest.mark.parametrize("kind", ["ws"])
def test_a_host_has_a_name(native: OlderServer, address: str) -> None:
    with create_client(address.replace("127.0.0.1", "localhost")) as client:
        assert client.ping() == {"alive": True}
    with pytest.raises(ConnectionError, match=r"nowhere\.invalid"):
        create_client("nowhere.invalid:1")


@pytest.mark.parametrize("kind", ["unix"])
def test_a_unix_path_may_be_long(native: OlderServer, address: str, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    Path(address.removeprefix("unix://")).rename(deep / "server.sock")
    with create_client(f"unix://{deep}/server.sock") as client:
        assert client.ping() == {"alive": True}


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
