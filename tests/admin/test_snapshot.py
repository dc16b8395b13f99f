"""``shardhash snapshot`` against real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash import cli
from shardhash.admin.snapshot import take_snapshot
from shardhash.client import create_client
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.manifest import lock_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.layout import LOCK
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


@pytest.mark.parametrize("content", [b"", json.dumps({"pid": os.getpid(), "host": "other"}).encode()])
def test_a_server_that_cannot_be_asked(data: Path, content: bytes) -> None:
    """One that has not said who it is yet; one in another container, where its number is somebody else's."""
    data.mkdir()
    with lock_directory(data):
        (data / LOCK).write_bytes(content)
        with pytest.raises(ConfigError, match="on other; ask there" if content else "just starting or stopping"):
            take_snapshot(OsFileSystem(), data, 1, silent)
    assert socket.gethostname() != "other"
