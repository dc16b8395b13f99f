"""wss addresses: the server's certificate is verified."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.older_server import OlderServer

METHOD = "oe.sstatesig.OEOuthashBasic"
ASKING = """
import sys
from shardhash.client import create_client

with create_client(sys.argv[1]) as client:
    print(client.get_unihash(sys.argv[2], "00" * 32))
"""


async def run(*command: str, **environment: str) -> tuple[int, str]:
    """Exit status of a program and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **environment}
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
async def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, signed by itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate, and is not on this machine")
    path = tmp_path / "certificate.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    status, output = await run(openssl, *command.split(), "-out", str(path), "-keyout", str(tmp_path / "key.pem"))
    assert status == 0, output
    return path


@pytest.fixture
async def address(native: OlderServer, certificate: Path, tmp_path: Path) -> AsyncIterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    async with native.listen("ws", tmp_path, context) as address:
        yield address.replace("ws://127.0.0.1", "wss://localhost")


async def test_a_trusted_server(native: OlderServer, address: str, certificate: Path) -> None:
    native.mappings[METHOD, "00" * 32] = "11" * 32
    output = await run(sys.executable, "-c", ASKING, address, METHOD, SSL_CERT_FILE=str(certificate))
    assert output == (0, "11" * 32 + "\n")


async def test_a_server_that_cannot_prove_its_name(native: OlderServer, address: str) -> None:
    status, output = await run(sys.executable, "-c", ASKING, address, METHOD)
    assert status == 1
    assert "ConnectionError" in output
    assert "certificate verify failed" in output
    assert not native.heard
