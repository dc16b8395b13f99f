"""Starts that fail say why in one line, and leave nothing behind; a stop in order is told at its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from shardhash.client import create_client
from shardhash.shard.directory.lock import lock_directory
from tests.servers import IN_MEMORY, ROOT, ServerProcess, run_shardhash

UNWRITABLE = """
import sys
from shardhash import cli
from shardhash.shard.storage.filesystem import OsFileSystem

def mkdir(self, path):
    raise PermissionError(13, "Permission denied", str(path))

OsFileSystem.mkdir = mkdir
sys.exit(cli.main(sys.argv[1:]))
"""
ADMIN = ("--admin-user", "admin", "--admin-password", "hunter2")


def serve(*arguments: str) -> str:
    """What a server says that cannot start."""
    ended = run_shardhash("serve", "--workers", "1", *arguments)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_an_address_that_is_taken_leaves_no_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = serve("--data", str(tmp_path / "data"), "--bind", f"127.0.0.1:{port}")
        assert f"stop what listens there (ss -ltnp 'sport = :{port}' shows it)" in said
        assert not (tmp_path / "data").exists()
        (tmp_path / "data").mkdir()
        assert f"ss -ltnp 'sport = :{port}'" in serve("--data", str(tmp_path / "data"), "--bind", f"127.0.0.1:{port}")
        with lock_directory(tmp_path / "data"):
            said = serve("--data", str(tmp_path / "data"), "--bind", f"127.0.0.1:{port}")
    assert f"is in use by process {os.getpid()}" in said
    assert "or let that server listen here too: --bind A --bind B,read-only" in said


def test_a_folder_that_cannot_be_used_is_no_other_server(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    said = serve("--data", str(tmp_path), "--bind", "127.0.0.1:0")
    assert "cannot use the data directory" in said
    assert "--bind A" not in said


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    command = ["serve", "--workers", "1", "--data", str(tmp_path), "--bind", "127.0.0.1:0"]
    ended = subprocess.run(
        [sys.executable, "-c", UNWRITABLE, *command],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"{tmp_path} cannot be made ready: Permission denied; {tmp_path} belongs to" in line
    assert "run it as the user who owns the data" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_line_says_that_it_stopped(number: signal.Signals) -> None:
    with ServerProcess(*IN_MEMORY) as server:
        assert server.stop(number) == 0
    lines = server.log.read().splitlines()
    assert lines[-1].partition(": ")[2].startswith("stopped")
    assert any(line.endswith(": stopping") for line in lines[:-1])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("", "anonymous users hold @db-admin @read @report"),
        (",read-only", "read-only, anonymous users only look up"),
        (",read-only,anon=@none", "read-only, anonymous users must log in"),
    ],
)
def test_what_anonymous_users_may_do(rules: str, words: str) -> None:
    with ServerProcess(*IN_MEMORY, binds=[f"127.0.0.1:0{rules}"]) as server:
        assert f"listening on {server.address}: {words}\n" in server.log.read()


def test_an_address_that_others_reach_is_told_of_once() -> None:
    with ServerProcess(*IN_MEMORY, binds=["0.0.0.0:0"]) as server:
        (line,) = [line for line in server.log.read().splitlines() if "--bind" in line]
    assert " WARNING " in line


def test_a_password_that_a_token_replaced_is_told_of(tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"), "--workers", "1", *ADMIN)
    with ServerProcess(*options) as server, create_client(server.address, "admin", "hunter2") as client:
        client.refresh_token()
    with ServerProcess(*options) as server:
        assert "the configured administrator admin got a token since" in server.log.read()


def test_http_at_a_line_address_is_told_as_text() -> None:
    with ServerProcess(*IN_MEMORY) as server:
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as client:
            client.sendall(b"GET /\x1b[31m\xff HTTP/1.1\r\nHost: x\r\n\r\n")
            while client.recv(4096):
                pass
        said = server.log.wait_for("the first line is")
    assert (
        "the first line is 'GET /\\x1b[31m\N{REPLACEMENT CHARACTER} HTTP/1.1', not 'OEHASHEQUIV 1.1'; browsers" in said
    )
    assert "need a --bind ws://HOST:PORT" in said


def test_what_is_no_http_is_told_as_text() -> None:
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0"]) as server:
        for data in (b"\x16\x03\x01\nforged\n", b"GET / HTTP/1.1\r\n\xff: x\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as client:
                client.sendall(data)
                with suppress(ConnectionResetError):
                    while client.recv(4096):
                        pass
        said = server.log.wait_for("no HTTP: ")
    assert "closed: '\\x16\\x03\\x01\\nforged\\n' is no HTTP, and this address takes WebSockets" in said
    assert "closed: no HTTP: Invalid header token: " in said
    assert "BadHttpMessage" not in said
