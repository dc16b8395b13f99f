"""The lock of a data directory: it outlives removals of files, names its holder, and is free for those who look."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from shardhash.errors import ConfigError
from shardhash.shard.directory.lock import Holder, is_locked, lock_directory, read_holder
from shardhash.shard.storage.layout import LOCK

PROGRAM = (
    "import sys; from pathlib import Path; from shardhash.shard.directory.lock import lock_directory\n"
    "with lock_directory(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def refused(directory: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=words), lock_directory(directory):
        raise AssertionError


def test_it_names_its_holder(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with holder(tmp_path) as process:
        refused(tmp_path, rf"in use by process {process.pid} on .*, since \d{{4}}-.*; stop it first")
        assert is_locked(tmp_path)
        found = read_holder(tmp_path)
        assert found is not None
        assert found.is_here
        assert found.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert found.namespace == str(Path("/proc/self/ns/pid").readlink())
    with lock_directory(tmp_path):  # a holder that died holds nothing
        assert is_locked(tmp_path)
    assert read_holder(tmp_path) is None


@pytest.mark.parametrize("again", [False, True])
def test_it_outlives_the_removal_of_its_file(tmp_path: Path, again: bool) -> None:
    with holder(tmp_path):
        (tmp_path / LOCK).unlink()
        if again:
            (tmp_path / LOCK).write_text("")
        refused(tmp_path, "in use by another process")
        assert is_locked(tmp_path)


def test_a_holder_elsewhere_is_never_taken_for_gone(tmp_path: Path) -> None:
    """Its number is somebody else's here, or nobody's."""
    with holder(tmp_path):
        found = read_holder(tmp_path)
        assert found is not None
        for change in ({"namespace": "pid:[1]"}, {"boot": "other"}, {"boot": ""}):
            value = {name: getattr(found, name) for name in Holder.__slots__} | {"pid": 4194305} | change
            (tmp_path / LOCK).write_bytes(orjson.dumps(value))
            assert is_locked(tmp_path)
            refused(tmp_path, r"in use by process 4194305 on .* \(boot .*, namespace pid:")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid":"1"}', b'{"pid":1,"host":2}', b"\xff" * 9000])
def test_a_lock_file_of_any_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    assert not is_locked(tmp_path)
    with lock_directory(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        refused(tmp_path, "in use by another process")


def test_who_only_looks_refuses_no_start(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_locked(tmp_path)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with lock_directory(tmp_path):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_pipe_in_the_place_of_the_lock_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert not is_locked(tmp_path)
    with lock_directory(tmp_path):
        assert read_holder(tmp_path) is None
        refused(tmp_path, "in use by another process")


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / LOCK).symlink_to(tmp_path / "precious")
    refused(tmp_path / "data", "cannot use the data directory")
    assert (tmp_path / "precious").read_text() == "kept"
