"""Servers behind proxies: who a named proxy says that a client is counts everywhere, and nobody else can say so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest

from shardhash.client import create_async_client
from shardhash.wire.proxy_header import SIGNATURE
from tests.certificates import Authority
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
PING = b'{"ping": {}}\n'
ALIVE = b'{"alive":true}\n'
LIMIT = 30.0
CLIENT = "203.0.113.7"
ADMIN = ("--admin-user", "admin", "--admin-password", "secret")
NEW_USER = b'{"auth": {"username": "admin", "token": "secret"}}\n{"new-user": {"username": "x", "permissions": []}}\n'
Start = Callable[..., ServerProcess]


def v1(host: str) -> bytes:
    kind, own = ("TCP6", "::1") if ":" in host else ("TCP4", "127.0.0.1")
    return f"PROXY {kind} {host} {own} 4711 443\r\n".encode()


def v2(host: str) -> bytes:
    source = ip_address(host).packed
    body = source + bytes(len(source)) + struct.pack(">HH", 4711, 443)
    return SIGNATURE + struct.pack(">BBH", 0x21, 0x11 if len(source) == 4 else 0x21, len(body)) + body


def connected(address: str) -> socket.socket:
    if address.startswith("unix://"):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(address.removeprefix("unix://"))
    else:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        raw = socket.create_connection((host, int(port)))
    return raw


async def ask(address: str, header: bytes, asked: bytes, pause: bool = False, tls: Path | None = None) -> bytes:
    """All that the server says, after a PROXY header."""
    raw = connected(address)
    for part in [header[:9], header[9:]] if pause else [header]:
        raw.sendall(part)
        await asyncio.sleep(0.05 * pause)
    context = None if tls is None else ssl.create_default_context(cafile=tls)
    name = None if tls is None else "localhost"
    said = b""
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname=name)
            writer.write(HELLO + asked)
            try:
                while asked and (line := await reader.readline()):
                    said += line
                    asked = asked[asked.index(b"\n") + 1 :]
            finally:
                writer.transport.abort()
    except (ConnectionError, ssl.SSLError):
        pass
    return said


@pytest.mark.parametrize("header", [v1(CLIENT), v2(CLIENT), v1("2001:db8::7"), v2("2001:db8::7")], ids=range(4))
@pytest.mark.parametrize("pause", [False, True])
async def test_the_audit_trail_names_the_client_that_a_proxy_names(
    start_server: Start, header: bytes, pause: bool
) -> None:
    server = start_server(*IN_MEMORY, *ADMIN, "--trust-proxy", "127.0.0.0/8")
    said = await ask(server.address, header, NEW_USER, pause)
    assert b'"token"' in said
    line = server.log.wait_for("new-user")
    peer = f"{CLIENT}:4711" if CLIENT.encode() in header or len(header) == 28 else "[2001:db8::7]:4711"
    assert f'"peer":"{peer}"' in line


async def test_the_header_comes_before_tls(start_server: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "authority")
    certificate, key = authority.sign("localhost")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    server = start_server(*IN_MEMORY, *ADMIN, *tls, "--trust-proxy", "127.0.0.1", binds=["tls://127.0.0.1:0"])
    assert b'"token"' in await ask(server.address, v2(CLIENT), NEW_USER, tls=authority.path)
    assert f'"peer":"{CLIENT}:4711"' in server.log.wait_for("new-user")
    assert await ask(server.address, b"", PING, tls=authority.path) == ALIVE, "a proxy may ask for itself"


@pytest.mark.parametrize("header", [v1(CLIENT), v2(CLIENT)], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "ws", "tls"])
async def test_a_header_of_somebody_else_is_refused_with_one_line(
    start_server: Start, tmp_path: Path, header: bytes, kind: str
) -> None:
    certificate, key = Authority(tmp_path / "authority", "authority").sign("localhost")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key)) if kind == "tls" else ()
    bind = {
        "tcp": "127.0.0.1:0",
        "unix": f"unix://{tmp_path}/socket",
        "ws": "ws://127.0.0.1:0",
        "tls": "tls://127.0.0.1:0",
    }[kind]
    server = start_server(*IN_MEMORY, *tls, "--trust-proxy", "10.0.0.0/8", binds=[bind])
    raw = connected(server.address)
    raw.sendall(header + HELLO + PING)
    raw.settimeout(LIMIT)
    said = b"more"
    try:
        said = await asyncio.to_thread(raw.recv, 1000)
    except ConnectionResetError:
        said = b""
    raw.close()
    assert said == b""
    server.stop()
    lines = [line for line in server.log.read().splitlines() if "PROXY" in line]
    assert len(lines) == 1
    assert "is not named as a proxy" in lines[0]


async def test_a_unix_socket_is_trusted_if_it_is_named(start_server: Start, tmp_path: Path) -> None:
    server = start_server(*IN_MEMORY, *ADMIN, "--trust-proxy", "unix", binds=[f"unix://{tmp_path}/socket"])
    await ask(server.address, v2(CLIENT), NEW_USER)
    assert f'"peer":"{CLIENT}:4711"' in server.log.wait_for("new-user")


async def test_clients_of_a_proxy_have_their_own_limits(start_server: Start) -> None:
    server = start_server(*IN_MEMORY, "--trust-proxy", "127.0.0.1", "--limit", "peer_connections=2")
    ends = []
    for host in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
        for _ in range(2):
            raw = connected(server.address)
            raw.sendall(v2(host) + HELLO + PING)
            reader, writer = await asyncio.open_connection(sock=raw)
            async with asyncio.timeout(LIMIT):
                assert await reader.readline() == ALIVE
            ends.append(writer)
    assert await ask(server.address, v2("203.0.113.1"), PING) == b"", "it has two"
    assert await ask(server.address, v2("203.0.113.4"), PING) == ALIVE
    network = [await ask(server.address, v2(f"2001:db8::{number}"), PING) for number in range(3)]
    assert network == [ALIVE] * 3
    for writer in ends:
        writer.transport.abort()


async def upgraded(address: str, headers: dict[str, str], lines: list[str]) -> list[str]:
    """The answers to some lines by WebSocket."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, headers=headers) as connection:
        for line in ("OEHASHEQUIV 1.1", "needs-headers: false", "", *lines):
            await connection.send_str(line)
        async with asyncio.timeout(LIMIT):
            return [await connection.receive_str() for _ in lines]


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ({"X-Forwarded-For": f"198.51.100.1, {CLIENT}"}, CLIENT),
        ({"X-Forwarded-For": f"{CLIENT}, 127.0.0.1"}, CLIENT),
        ({"Forwarded": f"for=198.51.100.1, for={CLIENT};proto=https"}, CLIENT),
        ({"X-Forwarded-For": "nobody"}, "127.0.0.1:"),
        ({}, "127.0.0.1:"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_a_web_socket_names_the_client_that_a_proxy_names(
    start_server: Start, headers: dict[str, str], peer: str, trusted: bool
) -> None:
    named = "127.0.0.1" if trusted else "10.0.0.1"
    server = start_server(*IN_MEMORY, *ADMIN, "--trust-proxy", named, binds=["ws://127.0.0.1:0"])
    await upgraded(server.address, headers, NEW_USER.decode().splitlines())
    expected = peer if trusted else "127.0.0.1:"
    assert f'"peer":"{expected}' in server.log.wait_for("new-user")


async def test_the_page_logs_in_the_client_of_the_proxy(start_server: Start) -> None:
    server = start_server(*IN_MEMORY, *ADMIN, "--trust-proxy", "127.0.0.1", binds=["ws://127.0.0.1:0"])
    url = server.address.replace("ws://", "http://").rstrip("/") + "/api/login"
    body = {"username": "admin", "token": "secret"}
    headers = {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert "Secure" in response.headers["Set-Cookie"], "the browser speaks TLS to the proxy"
    assert f"{CLIENT}: admin logged in on the page" in server.log.wait_for("logged in on the page")


async def test_wrong_logins_are_counted_by_the_client_and_the_right_token_goes_on(start_server: Start) -> None:
    limits = ("--limit", "peer_logins=3", "--trust-proxy", "127.0.0.1")
    server = start_server(*IN_MEMORY, *ADMIN, *limits)
    made = await ask(server.address, v1("198.51.100.1"), NEW_USER)
    token = json.loads(made.splitlines()[-1])["token"]
    wrong = b'{"auth": {"username": "admin", "token": "guess"}}\n'
    right = b'{"auth": {"username": "admin", "token": "secret"}}\n'
    said = await asyncio.gather(*(ask(server.address, v1(CLIENT), wrong) for _ in range(3)))
    assert all(b"Unable to authenticate as admin" in one for one in said)
    refused = await ask(server.address, v1(CLIENT), right)
    assert b"too many wrong logins from 203.0.113.7; try again in" in refused
    assert b"--limit peer_logins=N allows more" in refused
    assert b'"result":true' in await ask(server.address, v1("203.0.113.8"), right)
    with_token = json.dumps({"auth": {"username": "x", "token": token}}).encode() + b"\n"
    assert b'"result":true' in await ask(server.address, v1(CLIENT), with_token)


async def test_too_many_new_tokens_are_refused_in_words(start_server: Start) -> None:
    server = start_server(*IN_MEMORY, *ADMIN, "--limit", "user_tokens=2")
    async with await create_async_client(server.address, "admin", "secret") as client:
        await client.new_user("one", [])
        await client.new_user("two", [])
    said = await ask(server.address, b"", NEW_USER)
    assert b"limit user_tokens is 2 a minute; --limit user_tokens=N allows more" in said


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "ws://127.0.0.1:0"])
async def test_who_is_fast_waits_and_is_answered_and_counted(start_server: Start, kind: str) -> None:
    """Nothing is refused: a build that asks in waves never notices but by the time."""
    few = ("--limit", "peer_requests=5", "--http", "127.0.0.1:0")
    server = start_server(*IN_MEMORY, *few, binds=[kind], listening=2)
    async with await create_async_client(server.address) as client:
        for number in range(60):  # of 50 that may be asked in one go
            assert await client.get_unihash("m", f"{number:064x}") is None
    url = server.addresses[1].removeprefix("tcp://")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    assert 'shardhash_limits_hit_total{limit="peer_requests"}' in text


async def test_proxies_are_taken_over_without_a_restart(start_server: Start, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    server = start_server(*IN_MEMORY, "--config", str(file))
    assert await ask(server.address, v1(CLIENT), PING) == b""
    file.write_text("trust-proxy = ['127.0.0.1']\n")
    server.process.send_signal(signal.SIGHUP)
    server.log.wait_for("trust-proxy is now 127.0.0.1")
    assert await ask(server.address, v1(CLIENT), PING) == ALIVE


async def test_proxies_that_say_nothing_are_closed(start_server: Start) -> None:
    """One that only looks whether the server is there costs no line in the log."""
    server = start_server(*IN_MEMORY, "--trust-proxy", "127.0.0.1", "--limit", "hello_time=1s")
    ends = [connected(server.address) for _ in range(3)]
    ends[0].close()
    ends[1].sendall(v2(CLIENT)[:14])
    for raw in ends[1:]:
        raw.settimeout(LIMIT)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(raw.recv, 100) == b""
        raw.close()
    assert await ask(server.address, v1(CLIENT), PING) == ALIVE
    server.stop()
    assert "it ended before" not in server.log.read()
