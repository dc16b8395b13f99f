"""Imports and exports that are killed: all is there or nothing, no process stays, and it can be run again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardhash import cli
from shardhash.client import create_client
from shardhash.shard.storage.filesystem import OsFileSystem
from tests.admin.directories import facts
from tests.moving import databases as db
from tests.servers import ROOT, ServerProcess

pytestmark = pytest.mark.once

FS = OsFileSystem()
ROWS, SIGINFO = 12_000, 1000
KILLS = 6


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So much siginfo that other processes help to pack it."""
    return db.write_many(tmp_path_factory.mktemp("old") / "old.db", ROWS, siginfo=SIGINFO)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shardhash", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_whole(*arguments: object) -> float:
    """Seconds of a run that nobody kills."""
    began = time.perf_counter()
    assert start(*arguments).wait(300) == 0
    return time.perf_counter() - began


def kill_after(seconds: float, *arguments: object) -> bool:
    """Whether a process was killed before it was done. Those that it had started end with it."""
    process = start(*arguments)
    others: list[psutil.Process] = []
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        try:
            others = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            pass
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive
    return True


def moments(whole: float) -> list[float]:
    """When to kill: all over the run, at places that chance picks."""
    dice = random.Random(3)
    return [whole * (number + dice.random()) / KILLS for number in range(KILLS)]


def test_an_import_into_a_new_directory(database: Path, tmp_path: Path) -> None:
    whole = run_whole("import", database, "--data", tmp_path / "whole")
    expected = facts(FS, tmp_path / "whole")
    data = tmp_path / "data"
    for moment in moments(whole):
        killed = kill_after(moment, "import", database, "--data", data)
        assert (data / "manifest.json").exists() or killed
        if (data / "manifest.json").exists():
            assert facts(FS, data) == expected
    run_whole("import", database, "--data", data)
    assert facts(FS, data) == expected
    assert cli.main(["verify", "--data", str(data)]) == 0


def test_an_import_into_what_is_there(database: Path, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    present = db.write_many(tmp_path / "present.db", 2000, siginfo=100, start=ROWS - 1000)
    for folder in (data, other):
        run_whole("import", present, "--data", folder)
    before = facts(FS, data)
    whole = run_whole("import", database, "--data", other)
    after = facts(FS, other)
    for moment in moments(whole):
        kill_after(moment, "import", database, "--data", data)
        assert facts(FS, data) in (before, after)
    run_whole("import", database, "--data", data)
    assert facts(FS, data) == after
    assert cli.main(["verify", "--data", str(data)]) == 0


def test_a_server_starts_on_what_a_killed_import_left(
    database: Path, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    data = tmp_path / "data"
    server = start_server("--data", str(data))
    with create_client(server.address) as client:
        client.report_unihash(db.H[1], db.METHOD, db.H[2], db.H[3], {"outhash_siginfo": "text"})
    server.stop()
    assert kill_after(1.5, "import", database, "--data", data) in (True, False)
    server = start_server("--data", str(data))
    with create_client(server.address) as client:
        found = client.get_taskhash(db.METHOD, db.H[1], True)
        assert found is not None
        assert found["outhash_siginfo"] == "text"


def test_an_import_into_a_running_server(
    database: Path, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    run_whole("import", database, "--data", tmp_path / "whole")
    server = start_server("--data", str(tmp_path / "data"))
    for seconds in (1.0, 2.0, 4.0):
        kill_after(seconds, "import", database, "--address", server.address)
    run_whole("import", database, "--address", server.address)
    server.stop()
    assert facts(FS, tmp_path / "data") == facts(FS, tmp_path / "whole")


def test_an_export(database: Path, tmp_path: Path) -> None:
    run_whole("import", database, "--data", tmp_path / "data")
    whole = run_whole("export", tmp_path / "whole.db", "--data", tmp_path / "data")
    for moment in moments(whole)[:3]:
        if kill_after(moment, "export", tmp_path / "out.db", "--data", tmp_path / "data"):
            assert not (tmp_path / "out.db").exists()
    (tmp_path / "out.db").unlink(missing_ok=True)
    run_whole("export", tmp_path / "out.db", "--data", tmp_path / "data")
    run_whole("import", tmp_path / "out.db", "--data", tmp_path / "again")
    assert facts(FS, tmp_path / "again") == facts(FS, tmp_path / "data")
