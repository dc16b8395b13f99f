"""``shardhash snapshot`` against real servers."""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardhash import cli
from shardhash.admin.snapshot import take_snapshot
from shardhash.client import create_client
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import CONTROL
from tests.servers import ServerProcess

HASH = "a" * 64


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def silent(_text: str) -> None:
    """Nobody looks."""


def test_a_running_server_writes_one_for_each_shard(
    data: Path, start_server: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("--data", str(data), "--workers", "2")
    with create_client(server.address) as client:
        client.report_unihash(HASH, "m", HASH, HASH)
        before = {path.name for path in data.rglob("*.snap")}
        assert cli.main(["snapshot", "--data", str(data)]) == 0
        first = take_snapshot(OsFileSystem(), data, 60, silent)
        assert len(first) == 2
        assert {path.name for path in data.rglob("*.snap")} > before
        assert client.get_unihash("m", HASH) == HASH
    assert capsys.readouterr().out == "2 snapshots are written\n"
    assert server.stop() == 0


def test_no_server(data: Path, start_server: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]) -> None:
    assert start_server("--data", str(data), "--workers", "1").stop() == 0
    assert cli.main(["snapshot", "--data", str(data)]) == 1
    assert f"no server serves {data}" in capsys.readouterr().err


def test_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["snapshot", "--data", "/nowhere"])
    assert exit_.value.code == 2
    assert "--data: there is no folder /nowhere" in capsys.readouterr().err


def test_a_server_that_does_nothing(
    data: Path, start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, so that it cannot; and then killed meanwhile."""
    server = start_server("--data", str(data), "--workers", "1")
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(StorageError, match=r"no snapshot of every shard within 0\.05 s"):
        take_snapshot(OsFileSystem(), data, 0.05, silent)
    with pytest.raises(StorageError, match="the server ended before"):
        take_snapshot(OsFileSystem(), data, 60, lambda _: server.kill())


def test_a_server_that_cannot_be_asked(data: Path) -> None:
    """The directory is held, and nobody answers. Whoever the lock names, this very process, gets no signal."""
    data.mkdir()
    with lock_directory(data), pytest.raises(ConfigError, match="just starting or stopping"):
        take_snapshot(OsFileSystem(), data, 1, silent)


def test_the_server_says_at_once_why_there_is_none(data: Path, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server("--data", str(data), "--workers", "2")
    with create_client(server.address) as client:
        for number in range(40):
            client.report_unihash(f"{number:064x}", "m", HASH, f"{number:064x}")
    for worker in psutil.Process(server.process.pid).children():
        worker.rlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))  # a disk that is full
    with pytest.raises(StorageError, match=r"no snapshot of every shard was written: .*cannot be begun"):
        take_snapshot(OsFileSystem(), data, 60, silent)


@pytest.mark.parametrize(
    ("request_", "words"),
    [(b"hello\n", "not a request"), (b'{"command":"dance"}\n', "does not know"), (b"x" * 9999, "")],
)
def test_what_is_no_request(
    data: Path, start_server: Callable[..., ServerProcess], request_: bytes, words: str
) -> None:
    server = start_server("--data", str(data), "--workers", "1")
    assert (data / CONTROL).stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(data / CONTROL))
        connection.sendall(request_)
        assert words in json.loads(connection.makefile("rb").readline())["error"]
    assert take_snapshot(OsFileSystem(), data, 60, silent)
    assert server.stop() == 0
    assert not (data / CONTROL).exists()


def test_a_socket_that_a_killed_server_left(data: Path, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server("--data", str(data), "--workers", "1")
    server.kill()
    assert (data / CONTROL).exists()
    with lock_directory(data), pytest.raises(ConfigError, match="nobody answers there"):
        take_snapshot(OsFileSystem(), data, 1, silent)
    with pytest.raises(ConfigError, match="no server serves"):
        take_snapshot(OsFileSystem(), data, 1, silent)
    start_server("--data", str(data), "--workers", "1")
    assert take_snapshot(OsFileSystem(), data, 60, silent)
