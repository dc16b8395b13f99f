"""Proxies of the environment: ws:// goes by HTTP_PROXY, wss:// by HTTPS_PROXY, as BitBake passes them on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shardhash.client import create_async_client, create_client
from shardhash.client.environment import proxy_for
from shardhash.errors import ConfigError
from shardhash.wire.address import parse_address
from tests.certificates import Authority
from tests.client.older_server import OlderServer

METHOD = "m"


async def _ask_in_loop(address: str) -> str | None:
    async with await create_async_client(address) as client:
        return await client.get_unihash(METHOD, "00" * 32)


async def _ask_in_thread(address: str) -> str | None:
    def ask() -> str | None:
        with create_client(address) as client:
            return client.get_unihash(METHOD, "00" * 32)

    return await asyncio.to_thread(ask)


both = pytest.mark.parametrize("ask", [_ask_in_loop, _ask_in_thread])
Ask = Callable[[str], Awaitable[str | None]]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def trusted_authority(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that clients trust."""
    authority = Authority(folder / "certificates", "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    return authority


def context_of(authority: Authority, name: str) -> ssl.SSLContext:
    """The TLS of a server of this name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.sign(name))
    return context


@asynccontextmanager
async def forward_proxy(
    asked: list[str], tls: ssl.SSLContext | None = None, authorization: str = ""
) -> AsyncIterator[str]:
    """An HTTP proxy that takes every name for this machine; `asked` gets the first line of each connection."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.decode().partition("\r\n")
        asked.append(first)
        if f"\r\nProxy-Authorization: {authorization}\r\n" not in head.decode() and authorization:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        verb, target, _ = first.split()
        place = target if verb == "CONNECT" else target.removeprefix("http://").partition("/")[0]
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(":")[2]))
        if verb == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = target.removeprefix("http://").partition("/")[2]
            up_writer.write(f"{verb} /{path} HTTP/1.1\r\n{rest}".encode())
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    tasks: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@both
async def test_ws_goes_by_the_proxy_for_http(
    ask: Ask, native: OlderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    async with native.listen("ws", tmp_path) as address, forward_proxy(asked) as proxy:
        far = address.replace("127.0.0.1", "hash.test")
        monkeypatch.setenv("http_proxy", proxy)
        assert await ask(far) is None
        assert len(asked) == 1
        assert asked[0].startswith(f"GET {far.replace('ws', 'http', 1)}")
        monkeypatch.setenv("no_proxy", "example.com,.test")
        with pytest.raises(ConnectionError):
            await ask(far)
        assert len(asked) == 1


@both
@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
async def test_wss_goes_through_a_tunnel_and_is_verified(
    ask: Ask, encrypted: bool, native: OlderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    authority = trusted_authority(tmp_path, monkeypatch)
    context = context_of(authority, "hash.test")
    own = context_of(authority, "localhost") if encrypted else None  # a proxy that is reached by TLS itself
    async with native.listen("ws", tmp_path, context) as address, forward_proxy(asked, own) as proxy:
        port = int(address.partition("://")[2].rpartition(":")[2].partition("/")[0])
        monkeypatch.setenv("HTTPS_PROXY", proxy.replace("https://127.0.0.1", "https://localhost"))
        assert await ask(f"wss://hash.test:{port}/ws") is None
        assert asked == [f"CONNECT hash.test:{port} HTTP/1.1"]
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            await ask(f"wss://other.example:{port}/ws")


@both
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxy_that_asks_for_a_password(
    ask: Ask, scheme: str, native: OlderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    authority = trusted_authority(tmp_path, monkeypatch)
    own = context_of(authority, "hash.test") if scheme == "wss" else None
    async with (
        native.listen("ws", tmp_path, own) as address,
        forward_proxy(asked, None, "Basic bWU6c2U6Y3JldA==") as proxy,
    ):
        port = address.rpartition(":")[2].partition("/")[0]
        monkeypatch.setenv("ALL_PROXY", proxy.replace("//", "//me:se%3Acret@"))
        assert await ask(f"{scheme}://hash.test:{port}/ws") is None
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(ConnectionError, match="407 Proxy Authentication Required"):
            await ask(f"{scheme}://hash.test:{port}/ws")


@pytest.mark.parametrize(
    ("address", "environment", "proxy"),
    [
        ("ws://h:1", {"HTTP_PROXY": "p:3128"}, "http://p:3128"),
        ("ws://h:1", {"ALL_PROXY": "http://p:3128"}, "http://p:3128"),
        ("wss://h", {"https_proxy": "http://u:w@p:3128", "http_proxy": "q"}, "http://u:w@p:3128"),
        ("wss://h", {"HTTP_PROXY": "http://p:1"}, None),
        ("wss://a.h", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "h"}, None),
        ("wss://h:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("ws://127.0.0.1:1", {"HTTP_PROXY": "http://p:1"}, None),
        ("h:1", {"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ("tls://h:1", {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
def test_which_proxy(
    address: str, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(parse_address(address)) == proxy


def test_a_proxy_that_is_none_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://me:secret@p:1")
    with pytest.raises(ConfigError, match="socks5://p cannot be used") as refusal:
        proxy_for(parse_address("ws://h:1"))
    assert "secret" not in str(refusal.value)
