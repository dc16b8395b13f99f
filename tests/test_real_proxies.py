"""nginx and HAProxy before a server, set up as the runbook says. Skipped where they are not installed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.certificates import Authority
from tests.servers import IN_MEMORY, ServerProcess, free_port

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
CLIENT = "127.0.0.5"
"""Where the client comes from; the proxy comes from 127.0.0.1."""
LIMIT = 30.0
LINES = (
    "OEHASHEQUIV 1.1",
    "needs-headers: false",
    "",
    json.dumps({"auth": {"username": "admin", "token": "secret"}}),
    json.dumps({"new-user": {"username": "x", "permissions": []}}),
)
ADMIN = ("--admin-user", "admin", "--admin-password", "secret", "--trust-proxy", "127.0.0.1")
Start = Callable[..., ServerProcess]


def snippet(language: str) -> str:
    found = re.search(
        rf"^```{language}\n(.*?)^```$", (ROOT / "ops" / "runbook.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A proxy that answers at a port."""
    with subprocess.Popen(command) as process:
        try:
            end = time.monotonic() + LIMIT
            while not answers(port):
                assert process.poll() is None, f"{command} ended"
                assert time.monotonic() < end, f"{command} does not answer"
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def test_nginx(start_server: Start, tmp_path: Path) -> None:
    nginx, port = program("nginx"), free_port()
    authority = Authority(tmp_path / "authority", "authority")
    certificate, key = authority.sign("localhost")
    server = start_server(*IN_MEMORY, *ADMIN, "--allow-host", "localhost", binds=["ws://127.0.0.1:0"])
    text = snippet("nginx").replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    text = text.replace("/etc/nginx/chain.pem", str(certificate)).replace("/etc/nginx/key.pem", str(key))
    text = text.replace("127.0.0.1:8687", server.address.removeprefix("ws://").rstrip("/"))
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""  # the folders of a test are its user's alone
    begin = f"daemon off;\n{user}pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
    (tmp_path / "nginx.conf").write_text(f"{begin}http {{\naccess_log off;\n{temporary}{text}}}\n")
    context = ssl.create_default_context(cafile=authority.path)
    forged = {"X-Forwarded-For": "198.51.100.1"}
    command = (nginx, "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
    with running(*command, port=port):
        connector = aiohttp.TCPConnector(local_addr=(CLIENT, 0), ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.ws_connect(f"wss://localhost:{port}/", headers=forged) as connection:
                for line in LINES:
                    await connection.send_str(line)
                async with asyncio.timeout(LIMIT):
                    answers = [await connection.receive_str() for _ in range(2)]
            body = {"username": "admin", "token": "secret"}
            async with session.post(f"https://localhost:{port}/api/login", json=body) as response:
                assert response.status == 200, await response.text()
                assert "Secure" in response.headers["Set-Cookie"]
    assert '"token"' in answers[1]
    seen = server.log.wait_for("logged in on the page")
    assert f'"peer":"{CLIENT}"' in seen
    assert f"{CLIENT}: admin logged in on the page" in seen


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "tls://127.0.0.1:0"])
async def test_haproxy(start_server: Start, tmp_path: Path, kind: str) -> None:
    haproxy, port = program("haproxy"), free_port()
    authority = Authority(tmp_path / "authority", "authority")
    certificate, key = authority.sign("localhost")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key)) if kind.startswith("tls") else ()
    server = start_server(*IN_MEMORY, *ADMIN, *tls, binds=[kind])
    text = snippet("haproxy").replace("bind :8686", f"bind 127.0.0.1:{port}")
    (tmp_path / "haproxy.cfg").write_text(text.replace("127.0.0.1:8687", server.address.removeprefix("tls://")))
    context = ssl.create_default_context(cafile=authority.path) if tls else None
    with running(haproxy, "-f", str(tmp_path / "haproxy.cfg"), port=port):
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(CLIENT, 0), ssl=context, server_hostname="localhost" if tls else None
            )
            writer.write("".join(line + "\n" for line in LINES).encode())
            answers = [await reader.readline() for _ in range(2)]
            writer.transport.abort()
    assert b'"token"' in answers[1]
    assert f'"peer":"{CLIENT}:' in server.log.wait_for("new-user")
