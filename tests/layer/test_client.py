"""The layer's client against real servers, older ones, ones that lie, and none."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash_bitbake import connection
from shardhash_bitbake.breaker import Breaker
from shardhash_bitbake.client import Client
from shardhash_bitbake.errors import BreakerOpenError, InvokeError, ProtocolError
from tests.client.older_server import OlderServer
from tests.client.test_tls import certificate
from tests.layer.conftest import listen
from tests.servers import IN_MEMORY, ROOT, ServerProcess

__all__ = ["certificate"]  # a fixture

METHOD = "oe.sstatesig.OEOuthashBasic"
Start = Callable[..., ServerProcess]


def some_hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def fill(client: Client, method: str, count: int) -> tuple[list[tuple[str, str]], list[str | None]]:
    """Questions and their answers; every third taskhash is unknown."""
    pairs = [(method, some_hash(method, "task", i)) for i in range(count)]
    known = [i for i in range(count) if i % 3]
    client.report_batch(
        [
            {"method": method, "taskhash": pairs[i][1], "outhash": some_hash(method, "out", i), "unihash": pairs[i][1]}
            for i in known
        ]
    )
    return pairs, [pair[1] if i % 3 else None for i, pair in enumerate(pairs)]


# -- real servers ----------------------------------------------------------------------------------------------------


def test_reports_and_questions(address: str, kind: str) -> None:
    method = f"questions.{kind}"
    with Client(address) as client:
        pairs, unihashes = fill(client, method, 500)
        assert client.get_unihash_batch(iter(pairs)) == unihashes
        assert client.get_unihash(*pairs[0]) is None
        assert client.get_unihash(*pairs[1]) == unihashes[1]
        assert client.get_unihash_batch([]) == []
        assert client.unihash_exists_batch(iter(u or some_hash(method) for u in unihashes)) == [
            u is not None for u in unihashes
        ]
        assert client.unihash_exists(pairs[1][1])
        assert client.unihash_exists_batch([]) == []
        assert client.ping() == {"alive": True}
        assert client.get_taskhash(*pairs[0]) is None
        assert client.get_taskhash(*pairs[1], True)["outhash"] == some_hash(method, "out", 1)
        assert client.get_outhash(method, some_hash(method, "out", 1), "x")["taskhash"] == pairs[1][1]
        again = client.report_unihash(pairs[0][1], method, some_hash(method, "out", 1), pairs[0][1], {"PN": "sed"})
        assert again["unihash"] == pairs[1][1]
        assert client.report_unihash_equiv("t", method, some_hash(method, "u"))["unihash"] == some_hash(method, "u")
        assert client.figures.questions == 500 + 1 + 1 + 500 + 1


def test_guesses(address: str, kind: str) -> None:
    method = f"guesses.{kind}"
    with Client(address) as client:
        for number, unihash in ((1, 1), (2, 1)):
            names = {"PN": "zlib", "task": "compile"}
            client.report_unihash(some_hash(number), method, some_hash("o", number), some_hash(unihash), names)
        tasks = [(method, "zlib", "compile"), ("none", "zlib", "compile"), (method, "sed", "compile")]
        one, two = (some_hash(1), some_hash(1)), (some_hash(2), some_hash(1))
        assert client.get_guesses(tasks) == [([two, one], True), ([], True), ([], True)]
        assert client.get_guesses([]) == []
        many = [(method, f"recipe-{number}", "compile") for number in range(2500)]
        assert len(client.get_guesses([*many, tasks[0]])) == 2501


def test_other_hashes_and_methods_keep_their_order(address: str, kind: str) -> None:
    with Client(address) as client:
        one, one_unihashes = fill(client, f"one.{kind}", 20)
        two, two_unihashes = fill(client, f"two.{kind}", 20)
        odd = [(f"one.{kind}", text) for text in ("a" * 40, "AB" * 32, "ü" * 64)]
        for method, text in odd:
            client.report_unihash(text, method, some_hash(text), some_hash(method, text))
        asked = [pair for triple in zip(one, two, odd * 6, strict=False) for pair in triple]
        known = dict(zip(one + two, one_unihashes + two_unihashes, strict=True)) | {
            pair: some_hash(*pair) for pair in odd
        }
        assert client.get_unihash_batch(asked) == [known[pair] for pair in asked]
        assert client.unihash_exists_batch(["a" * 40, some_hash(*odd[0])]) == [False, True]


def test_several_native_blocks(address: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BLOCK", 7)
    with Client(address) as client:
        pairs, unihashes = fill(client, method := f"blocks.{kind}", 100)
        assert client.get_unihash_batch(pairs) == unihashes
        exist = client.unihash_exists_batch([u or some_hash(method) for u in unihashes])
        assert exist == [u is not None for u in unihashes]


@pytest.mark.parametrize("digits", [40, 64])
def test_a_world_of_questions(address: str, kind: str, digits: int) -> None:
    """In JSON, where they cannot be native, they are more than one request may hold."""
    method = f"world.{kind}.{digits}"
    pairs = [(method, some_hash(method, number)[:digits]) for number in range(17_000)]
    with Client(address) as client:
        known = client.report_unihash_equiv(pairs[-1][1], method, some_hash(method))["unihash"]
        assert client.get_unihash_batch(pairs) == [None] * 16_999 + [known]
        hashes = [taskhash for _, taskhash in pairs[:-1]] + [known]
        assert client.unihash_exists_batch(hashes) == [False] * 16_999 + [True]


@pytest.mark.parametrize("size", [32_700, 33_000, 1_000_000])
def test_long_messages(address: str, kind: str, size: int) -> None:
    method, siginfo = f"long.{kind}.{size}", "é€😀\n" * (size // 4)
    with Client(address) as client:
        client.report_unihash("t", method, "o", some_hash(method), {"outhash_siginfo": siginfo})
        assert client.get_taskhash(method, "t", all_properties=True)["outhash_siginfo"] == siginfo


def test_refusals_are_invoke_errors_and_the_client_goes_on(address: str) -> None:
    with Client(address) as client:
        with pytest.raises(InvokeError, match="nihash"):
            client.report_unihash_equiv("t", METHOD, "no unihash")
        assert client.ping() == {"alive": True}


def test_a_forked_child_has_a_connection_of_its_own(address: str, kind: str) -> None:
    with Client(address) as client:
        pairs, unihashes = fill(client, f"fork.{kind}", 10)
        child = os.fork()
        if child == 0:
            answered = client.get_unihash_batch(pairs) == unihashes
            client.close()
            os._exit(0 if answered else 1)
        assert client.get_unihash_batch(pairs) == unihashes
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.get_unihash_batch(pairs) == unihashes


def test_a_forked_task_imports_nothing(shared_server: ServerProcess) -> None:
    """What is imported in the parent costs each task nothing."""
    program = """
import os, sys
import shardhash_bitbake.client
if os.fork() == 0:
    before = {*sys.modules}
    for address in sys.argv[1:]:
        shardhash_bitbake.client.Client(address).report_unihash("t", "imports", "o", "ab" * 32, {"PN": "sed"})
    print(*sorted({*sys.modules} - before))
else:
    os.wait()
"""
    output = subprocess.run(
        [sys.executable, "-c", program, *shared_server.addresses],
        env={**os.environ, "PYTHONPATH": str(ROOT / "ops/meta-shardhash/lib")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert output == "\n"


def test_a_child_that_only_ends_leaves_the_connection_alone(address: str) -> None:
    with Client(address) as client:
        client.ping()
        child = os.fork()
        if child == 0:
            client.close()
            os._exit(0)
        os.waitpid(child, 0)
        connected = client._connection
        assert client.ping() == {"alive": True}
        assert client._connection is connected


def test_a_restarted_server_is_found_again(start_server: Start, tmp_path: Path) -> None:
    bind = f"unix://{tmp_path}/again.sock"
    first = start_server(*IN_MEMORY, binds=[bind])
    with Client(bind) as client:
        assert client.get_unihash(METHOD, "t") is None
        first.stop()
        start_server(*IN_MEMORY, binds=[bind])
        assert client.get_unihash(METHOD, "t") is None


def test_credentials(start_server: Start) -> None:
    server = start_server(
        *IN_MEMORY,
        "--admin-user",
        "boss",
        "--admin-password",
        "secret",
        "--anon-perms",
        "@none",
        binds=["ws://127.0.0.1:0"],
    )
    with Client(server.address, "boss", "secret") as client:
        assert client.get_unihash(METHOD, "t") is None
        assert client.report_unihash("t", METHOD, "o", some_hash("t"))["unihash"] == some_hash("t")
    with Client(server.address) as client, pytest.raises(InvokeError, match="permission"):
        client.ping() and client.report_unihash("t", METHOD, "o", some_hash("t"))
    with Client(server.address, "boss", "wrong") as client, pytest.raises(InvokeError, match="Unable to authenticate"):
        client.get_unihash(METHOD, "t")


def test_a_long_unix_path(start_server: Start, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    server = start_server(*IN_MEMORY, binds=[f"unix://{directory}/s"])
    with Client(server.address) as client:
        assert client.ping() == {"alive": True}


async def test_tls(start_server: Start, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = OlderServer(native=True)
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    pairs = [(METHOD, some_hash(i)) for i in range(3000)]
    older.mappings.update({pair: some_hash(pair) for pair in pairs})
    async with older.listen("ws", tmp_path, context) as plain:
        address = plain.replace("ws://127.0.0.1", "wss://localhost")
        with Client(address) as client, pytest.raises(ConnectionError, match="certificate verify failed"):
            await asyncio.to_thread(client.ping)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for native in (True, False):
            older.native = native
            with Client(address) as client:
                found = await asyncio.to_thread(client.get_unihash_batch, pairs)
                assert found == [some_hash(pair) for pair in pairs]


# -- older servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells_headers", [True, False])
async def test_streams(older: OlderServer, older_address: str, tells_headers: bool) -> None:
    older.tells_headers = tells_headers
    pairs = [(METHOD, some_hash("t", i)) for i in range(5000)]
    older.mappings.update({pair: some_hash("u", pair) for pair in pairs[::2]})
    unihashes = [older.mappings.get(pair) for pair in pairs]

    def ask() -> None:
        with Client(older_address) as client:
            assert client.get_unihash_batch(pairs) == unihashes
            exist = client.unihash_exists_batch([u or some_hash(0) for u in unihashes[:100]])
            assert exist == [u is not None for u in unihashes[:100]]
            assert client.ping() == {"alive": True}
            assert client.get_unihash(*pairs[0]) == unihashes[0]

    await asyncio.to_thread(ask)
    assert older.headers[-1] == ["needs-headers: " + ("true" if tells_headers else "false")]


async def test_a_report_asks_for_no_headers(older: OlderServer, older_address: str) -> None:
    def report() -> None:
        with Client(older_address, "builder", "secret") as client:
            assert client.report_unihash("t", METHOD, "o", some_hash("t"))["unihash"] == some_hash("t")
            assert client.get_unihash(METHOD, "t") == some_hash("t")

    await asyncio.to_thread(report)
    assert older.headers == [["needs-headers: false"], ["needs-headers: true"]]


async def test_a_connection_that_breaks_is_replaced_once(older: OlderServer, older_address: str) -> None:
    older.mappings[METHOD, "t"] = some_hash("t")
    older.hang_ups += [2, 2, None]
    with Client(older_address) as client:
        assert await asyncio.to_thread(client.get_unihash, METHOD, "t") == some_hash("t")
        older.hang_ups.appendleft(1)
        with pytest.raises(ConnectionError, match="cannot ask"):
            await asyncio.to_thread(client.get_unihash_batch, [(METHOD, "t")] * 5)


async def test_a_silent_server_costs_one_limit(older: OlderServer, older_address: str) -> None:
    older.silent.set()
    with Client(older_address, timeout=0.2) as client:
        with pytest.raises(ConnectionError, match="did not answer within"):
            await asyncio.to_thread(client.get_unihash, METHOD, "t")
        connections = len(older.headers)
        for _ in range(100):
            with pytest.raises(BreakerOpenError, match="asked again in"):
                client.get_unihash(METHOD, "t")
        assert len(older.headers) == connections


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("get-stream", '"no"', ProtocolError),
        ("get-stream", "no JSON", ProtocolError),
        ("get-stream", '{"invoke-error": {"message": "not allowed"}}', InvokeError),
        (f"{METHOD} t", "no hash", ProtocolError),
        (f"{METHOD} t", "AB" * 32, ProtocolError),
        (f"{METHOD} t", '{"invoke-error": {"message": "not allowed"}}', InvokeError),
    ],
)
async def test_lies_in_a_stream(older: OlderServer, older_address: str, command: str, answer: str, error: type) -> None:
    older.answer_override[command] = answer
    with Client(older_address) as client, pytest.raises(error):
        await asyncio.to_thread(client.get_unihash, METHOD, "t")


@pytest.mark.parametrize("answer", ["[]", "null", "{}", '{"unihash": 5}', "{", '"ok"'])
async def test_lies_about_a_report(older: OlderServer, older_address: str, answer: str) -> None:
    older.answer_override["report"] = answer
    with Client(older_address) as client, pytest.raises(ProtocolError):
        await asyncio.to_thread(client.report_unihash, "t", METHOD, "o", some_hash("t"))


# -- no server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "ws://{}/ws", "wss://{}", "unix:///nowhere/{}"])
def test_no_server(dead_address: str, form: str) -> None:
    address = form.format(dead_address)
    with Client(address) as client:
        with pytest.raises(ConnectionError, match=r"cannot ask .*(refused|no such file)"):
            client.report_unihash("t", METHOD, "o", some_hash("t"))
        with pytest.raises(BreakerOpenError):
            client.get_unihash(METHOD, "t")


def test_what_is_no_address_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="looks like"):
        Client("nothing")


@pytest.mark.parametrize(
    "script", [(), (b"",), (b"\xff\xfe\n",), (b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"x" * 3_000_000,), (b"\n", b"[")]
)
@pytest.mark.parametrize("form", ["{}", "ws://{}/"])
def test_servers_that_are_none(scripted: Callable[..., str], script: tuple[bytes, ...], form: str) -> None:
    with Client(form.format(scripted(*script)), timeout=1) as client:
        for ask in (lambda: client.get_unihash(METHOD, "t"), client.ping):
            client._breaker.worked()
            with pytest.raises(ConnectionError, match="cannot ask"):
                ask()


def test_a_header_line_without_a_colon(scripted: Callable[..., str]) -> None:
    with Client(scripted(b"header\n")) as client, pytest.raises(ProtocolError, match="where a header line is expected"):
        client.get_unihash(METHOD, "t")


def test_headers_without_an_end(scripted: Callable[..., str]) -> None:
    with Client(scripted(b"a: b\n" * 100)) as client, pytest.raises(ProtocolError, match="more than 64 header lines"):
        client.get_unihash(METHOD, "t")


# -- proxies ---------------------------------------------------------------------------------------------------------


def test_a_proxy(shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    port = int(shared_server.addresses[2].split(":")[2].split("/")[0])

    def serve(client: socket.socket) -> None:
        asked.append(client.recv(4096))
        if b"Basic bWU6c2VjcmV0" not in asked[-1]:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as server:
            import selectors

            with selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(4096)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)

    with listen(serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{proxy}")
        monkeypatch.delenv("http_proxy", raising=False)
        with Client("ws://hash.example.com:8686/ws") as client:
            assert client.ping() == {"alive": True}
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with Client("ws://hash.example.com:8686/ws") as client, pytest.raises(ConnectionError, match="407 Proxy"):
            client.ping()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Client(shared_server.addresses[2]) as client:
            assert client.ping() == {"alive": True}
        monkeypatch.setenv("HTTP_PROXY", "socks5://host:1")
        with Client("ws://hash.example.com:8686/ws") as client, pytest.raises(ConnectionError, match="NO_PROXY"):
            client.ping()
    assert [head.split(b"\r\n")[0] for head in asked] == [b"CONNECT hash.example.com:8686 HTTP/1.1"] * 2


# -- the breaker -----------------------------------------------------------------------------------------------------


def test_breaker() -> None:
    now = 100.0
    breaker = Breaker(lambda: now, lambda: 0.5)
    breaker.check(10)
    holds = []
    for _ in range(10):
        breaker.failed()
        with pytest.raises(BreakerOpenError):
            breaker.check(10)
        began = now
        while True:
            now += 0.5
            try:
                breaker.check(10)
                break
            except BreakerOpenError:
                pass
        holds.append(now - began)
        with pytest.raises(BreakerOpenError):
            breaker.check(10)  # the other one tries
    assert holds == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    breaker.worked()
    breaker.check(10)
    breaker.check(10)


def test_forked_tasks_share_a_breaker(dead_address: str) -> None:
    breaker = Breaker()
    child = os.fork()
    if child == 0:
        try:
            Client(dead_address, breaker=breaker).ping()
        except ConnectionError:
            os._exit(7 if breaker.should_warn() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert breaker.open
    assert not breaker.should_warn()
    with pytest.raises(BreakerOpenError):
        Client(dead_address, breaker=breaker).ping()
    breaker.forget_warning()
    assert breaker.should_warn()


def test_only_the_standard_library_is_needed() -> None:
    """Where there is no BitBake, no site-packages and no shardhash, and without an event loop."""
    program = (
        "import sys; import shardhash_bitbake.client, shardhash_bitbake.spool; "
        "import json; print(json.dumps([n for n in sys.modules if '.' not in n]))"
    )
    path = str(ROOT / "ops/meta-shardhash/lib")
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({path!r}); {program}"],
        capture_output=True,
        check=True,
    ).stdout
    modules = {*json.loads(output)} - {"shardhash_bitbake", "__main__"}
    assert modules <= {*sys.stdlib_module_names, *sys.builtin_module_names}
    assert "asyncio" not in modules
