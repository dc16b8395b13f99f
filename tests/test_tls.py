"""TLS of the server, with real certificates: wss:// and tls:// addresses, reloads, clients with certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.client import AsyncClient, InvokeError, create_async_client
from tests.certificates import Authority
from tests.servers import IN_MEMORY, ServerProcess

METHOD = "m"
LIMIT = 30.0
BINDS = ("wss://127.0.0.1:0", "tls://127.0.0.1:0")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Clients here trust it, and nobody else."""
    found = Authority(tmp_path / "first", "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(found.path))
    monkeypatch.setenv("NETRC", "/nowhere")
    return found


def options(certificate: Path, key: Path, *others: str) -> list[str]:
    return [*IN_MEMORY, "--tls-cert", str(certificate), "--tls-key", str(key), *others]


async def ask(address: str) -> None:
    """Answers, on a connection of its own."""
    async with await create_async_client(address) as client:
        assert await client.get_unihash(METHOD, "00" * 32) is None


async def until_trusted(address: str) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await ask(address)
            except ConnectionError:
                await asyncio.sleep(0.1)


async def test_what_plain_addresses_do_is_done_inside_tls(
    start_server: Callable[..., ServerProcess], authority: Authority
) -> None:
    server = start_server(*options(*authority.sign("localhost")), binds=BINDS)
    for address in server.addresses:
        async with await create_async_client(address) as client:
            digests = secrets.token_bytes(32 * 9000)
            texts = [digests[start : start + 32].hex() for start in range(0, len(digests), 32)]
            siginfo = "x" * 3_000_000
            await client.report_unihash(texts[0], METHOD, texts[0], texts[0], {"outhash_siginfo": siginfo})
            assert await client.get_unihash_batch((METHOD, text) for text in texts) == [texts[0], *[None] * 8999]
            row = await client.get_taskhash(METHOD, texts[0], all_properties=True)
            assert row is not None
            assert row["outhash_siginfo"] == siginfo
            with pytest.raises(InvokeError, match="Unable to authenticate"):
                await client.auth("nobody", "x")


async def test_stock_clients_speak_wss(start_server: Callable[..., ServerProcess], authority: Authority) -> None:
    asyncrpc = pytest.importorskip("bb.asyncrpc")
    server = start_server(*options(*authority.sign("localhost")), binds=BINDS[:1])
    client = asyncrpc.AsyncClient("OEHASHEQUIV", "1.1", logging.getLogger("stock"))
    await client.connect_websocket(server.address)
    assert await client.ping() == {"alive": True}
    await client.close()


async def test_plain_bytes_at_an_encrypted_address_harm_nobody(
    start_server: Callable[..., ServerProcess], authority: Authority
) -> None:
    server = start_server(*options(*authority.sign("localhost")), binds=BINDS)
    for address in server.addresses:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(b"OEHASHEQUIV 1.1\n\n" * 100)
        async with asyncio.timeout(LIMIT):
            assert b"alive" not in await reader.read()
        writer.close()
        await ask(address)


@pytest.mark.parametrize("by_signal", [True, False])
async def test_another_certificate_is_taken_without_a_restart(
    start_server: Callable[..., ServerProcess], authority: Authority, tmp_path: Path, by_signal: bool
) -> None:
    other = Authority(tmp_path / "second", "another")
    certificate, key = other.sign("localhost")
    server = start_server(*options(certificate, key), binds=BINDS)
    for address in server.addresses:
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            await ask(address)
    before = await open_trusting(other.path, server.address)
    for old, new in zip((key, certificate), reversed(authority.sign("localhost")), strict=True):
        new.replace(old)
    if by_signal:
        server.process.send_signal(signal.SIGHUP)
    for address in server.addresses:
        await until_trusted(address)
    assert await before.get_unihash(METHOD, "00" * 32) is None
    await before.close()


async def test_a_certificate_that_cannot_be_used_changes_nothing(
    start_server: Callable[..., ServerProcess], authority: Authority
) -> None:
    certificate, key = authority.sign("localhost")
    server = start_server(*options(certificate, key), binds=BINDS)
    key.write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.5)
    for address in server.addresses:
        await ask(address)


async def open_trusting(path: Path, address: str) -> AsyncClient:
    """A client that trusts another authority than the others here."""
    kept = os.environ["SSL_CERT_FILE"]
    os.environ["SSL_CERT_FILE"] = str(path)
    try:
        return await create_async_client(address)
    finally:
        os.environ["SSL_CERT_FILE"] = kept


async def test_clients_may_have_to_have_a_certificate_and_act_as_its_user(
    start_server: Callable[..., ServerProcess],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another authority's certificates do not do, and one of nobody's name is anonymous."""
    users, strangers = Authority(tmp_path / "users", "users"), Authority(tmp_path / "strangers", "strangers")
    more = ("--tls-client-ca", str(users.path), "--admin-user", "admin", "--admin-password", "secret")
    server = start_server(
        *options(*authority.sign("localhost"), *more), binds=[f"{bind},anon=@none" for bind in (*BINDS, "127.0.0.1:0")]
    )
    async with await create_async_client(server.addresses[2], "admin", "secret") as admin:
        await admin.new_user("builder", ["@read"])
        for address in server.addresses[:2]:
            with pytest.raises(ConnectionError):
                await ask(address)
            for signer, name, refusal in (
                (strangers, "builder", ConnectionError),
                (users, "nobody", InvokeError),
                (users, "builder", None),
            ):
                certificate, key = signer.sign(name)
                monkeypatch.setenv("SHARDHASH_CLIENT_CERT", str(certificate))
                monkeypatch.setenv("SHARDHASH_CLIENT_KEY", str(key))
                if refusal is not None:
                    with pytest.raises(refusal):
                        await ask(address)
                else:
                    await ask(address)
                    async with await create_async_client(address) as client:
                        assert await client.get_user() == {"username": "builder", "permissions": ["@read"]}
            monkeypatch.delenv("SHARDHASH_CLIENT_CERT")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda certificate, _key: certificate.unlink(), "cannot be read: No such file"),
        (lambda certificate, _key: certificate.write_text("x"), "cannot be used"),
        (lambda _certificate, key: key.write_text("x"), "cannot be used"),
    ],
)
def test_a_start_with_files_that_do_not_do_says_why(
    authority: Authority, change: Callable[[Path, Path], None], text: str
) -> None:
    certificate, key = authority.sign("localhost")
    change(certificate, key)
    command = [sys.executable, "-m", "shardhash", "serve", *options(certificate, key), "--bind", "wss://127.0.0.1:0"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
