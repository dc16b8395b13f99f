"""An edge server as a process: what people are shown of forwarding and do about it, and how it reaches its upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import create_async_client, create_client
from tests.certificates import Authority
from tests.client.test_cli import Shell
from tests.client.test_proxies import forward_proxy
from tests.http.conftest import get
from tests.http.test_metrics import samples
from tests.servers import IN_MEMORY, ServerProcess

METHOD = "m"
LIMIT = 30.0
LONG = "x" * (800 << 10)


def digits(number: int) -> str:
    return f"{number:064x}"


def report(address: str, number: int, unihash: int | None = None, **details: str) -> None:
    with create_client(address) as client:
        client.report_unihash(
            digits(number), METHOD, digits(number + 100), digits(unihash or number), {"PN": "zlib", **details}
        )


@pytest.fixture(scope="module")
def upstream() -> Iterator[ServerProcess]:
    """It takes no message of 800 KiB."""
    with ServerProcess(*IN_MEMORY, "--limit", "guest_message=700K") as server:
        yield server


@pytest.fixture
def edge(upstream: ServerProcess, tmp_path: Path) -> Iterator[ServerProcess]:
    arguments = ["--data", str(tmp_path / "edge"), "--workers", "1", "--upstream", upstream.address, "--forward"]
    with ServerProcess(*arguments, "--http", "127.0.0.1:0", listening=2) as server:
        yield server


@pytest.fixture
def shell(edge: ServerProcess, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch, edge.address)


def shown(shell: Shell, **due: Any) -> Any:
    """What `forwarding` tells, once it tells this."""
    until = time.monotonic() + LIMIT
    while True:
        found = shell.json("forwarding")
        told = found | {"refused": found["refused"]["count"], "conflicts": found["conflicts"]["count"]}
        if told | due == told:
            return found
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_what_is_refused_is_listed_and_can_be_sent_again(
    shell: Shell, edge: ServerProcess, upstream: ServerProcess
) -> None:
    report(edge.address, 1)
    shown(shell, waiting=0)
    report(edge.address, 2, outhash_siginfo=LONG)
    report(edge.address, 3)
    found = shown(shell, waiting=0, refused=1)
    assert found["results"] == {"accepted": 2, "refused": 1, "unreadable": 0, "left-out": 0}
    (row,) = found["refused"]["rows"]
    assert (row["taskhash"], row["PN"], "the connection breaks" in row["why"]) == (digits(2), "zlib", True)
    assert f"zlib  {digits(2)}" in shell("forwarding")
    assert f"{digits(2)}" not in shell("forwarding", "--limit", "0")
    ready = get(edge.addresses[1] + "/readyz?verbose")
    assert ready.status == 200
    assert "[!] forwarding: 0 reports wait; 1 refused ones are kept apart" in ready.text
    assert shell("drop-refused").startswith("1 reports would never be sent on; nothing is done")
    assert shell("forward-refused").startswith("1 reports wait again")
    shown(shell, waiting=1, refused=0)
    assert shell("drop-refused", "--yes").startswith("0 reports are not sent on")
    with create_client(upstream.address) as there:
        assert there.get_unihash_batch([(METHOD, digits(n)) for n in (1, 2, 3)]) == [digits(1), None, digits(3)]


def test_other_answers_are_counted_and_listed(shell: Shell, edge: ServerProcess, upstream: ServerProcess) -> None:
    with create_client(edge.address) as client:
        client.report_unihash_equiv(digits(11), METHOD, digits(11))
    shown(shell, waiting=0)
    with create_client(upstream.address) as there:
        there.remove({"method": METHOD, "taskhash": digits(11)})
    report(upstream.address, 11, 77)
    report(edge.address, 11)
    found = shown(shell, conflicts=1)
    (row,) = found["conflicts"]["rows"]
    assert (row["unihash"], row["upstream"]) == (digits(11), digits(77))
    assert f"here {digits(11)}  there {digits(77)}" in shell("forwarding")
    with create_client(edge.address) as client:
        assert client.get_unihash(METHOD, digits(11)) == digits(11)
    figures = samples(get(edge.addresses[1] + "/metrics").text)
    assert figures["shardhash_forward_conflicts_total"] == 1
    assert figures["shardhash_forwarded_total{result=accepted}"] == 2
    assert figures["shardhash_outbox_reports"] == figures["shardhash_outbox_age_seconds"] == 0
    assert figures["shardhash_forward_refused"] == 0
    assert figures["shardhash_outbox_limit_bytes"] == 1 << 30


def test_a_server_without_says_so(upstream: ServerProcess, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(capsys, monkeypatch, upstream.address)
    for command in ("forwarding", "forward-refused", "drop-refused"):
        shell(command, *(["--yes"] if command == "drop-refused" else []), status=1)
        assert "--upstream ADDRESS --forward" in shell.error


async def test_it_reaches_its_upstream_by_a_proxy_with_tls_and_a_login(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates", "authority")
    certificate, key = authority.sign("hash.test")
    login = ["--anon-perms", "@none", "--admin-user", "builder", "--admin-password", "secret"]
    tls = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    (tmp_path / "token").write_text("secret\n")
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    with ServerProcess(*IN_MEMORY, *login, *tls, binds=["wss://127.0.0.1:0", "127.0.0.1:0"]) as upstream:
        port = upstream.address.rpartition(":")[2]
        async with forward_proxy(asked) as proxy:
            arguments = ["--data", str(tmp_path / "edge"), "--workers", "1", "--forward"]
            arguments += ["--upstream", f"wss://hash.test:{port}/ws"]
            arguments += ["--upstream-user", "builder", "--upstream-token-file", str(tmp_path / "token")]
            environment = {"SSL_CERT_FILE": str(authority.path), "HTTPS_PROXY": proxy, "NO_PROXY": ""}
            edge = await loop.run_in_executor(None, lambda: ServerProcess(*arguments, environment=environment))
            try:
                async with (
                    await create_async_client(edge.address) as here,
                    await create_async_client(upstream.addresses[1], "builder", "secret") as there,
                ):
                    await here.report_unihash(digits(1), METHOD, digits(101), digits(1))
                    async with asyncio.timeout(LIMIT):
                        while (row := await there.get_row(METHOD, digits(1), digits(101))) is None:  # noqa: ASYNC110  # nobody tells
                            await asyncio.sleep(0.05)
            finally:
                await loop.run_in_executor(None, edge.stop)
    assert row["owner"] == "builder"
    assert set(asked) == {f"CONNECT hash.test:{port} HTTP/1.1"}
