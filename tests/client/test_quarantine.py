"""The commands for poisoned entries against a durable server, with an undo file both ways."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import create_client
from tests.client.test_cli import Shell
from tests.client.test_exploring import METHOD, digits, siginfo
from tests.servers import ServerProcess


def lookup(address: str, *numbers: int) -> list[str | None]:
    with create_client(address) as client:
        return client.get_unihash_batch([(METHOD, digits(number)) for number in numbers])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(data: Path) -> Iterator[ServerProcess]:
    """Three tasks of zlib, two with one output, and one of busybox."""
    with ServerProcess("--data", str(data), "--workers", "2") as server:
        with create_client(server.address) as client:
            for number, outhash, recipe in ((1, 101, "zlib"), (2, 101, "zlib"), (3, 103, "zlib"), (4, 104, "busybox")):
                extra = {"PN": recipe, "task": "do_compile", "owner": "me",
                         "outhash_siginfo": siginfo("compile", built=outhash)}  # fmt: skip
                client.report_unihash(digits(number), METHOD, digits(outhash), digits(number), extra)
        yield server


@pytest.fixture
def shell(server: ServerProcess, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch, server.address)


def test_quarantine_and_release(shell: Shell, server: ServerProcess) -> None:
    text = shell("quarantine", "--pn", "zlib")
    assert "3 rows, 3 mappings, 2 outhashes" in text
    assert "nothing is done: add --yes" in text
    assert lookup(server.address, 1, 2, 3) == [digits(1), digits(1), digits(3)]
    name = shell.json("quarantine", "--pn", "zlib", "--yes", "--reason", "broken compiler")["name"]
    assert lookup(server.address, 1, 2, 3, 4) == [None, None, None, digits(4)]
    assert "broken compiler" in shell("quarantines")
    assert shell("release", name) == "3 mappings are back"
    assert lookup(server.address, 1, 2, 3) == [digits(1), digits(1), digits(3)]
    assert shell("quarantines") == "nothing is in quarantine"
    shell("release", name, status=1)
    assert "there is no quarantine" in shell.error


def test_a_quarantine_outlives_the_server(data: Path, server: ServerProcess, shell: Shell) -> None:
    name = shell.json("quarantine", "--outhash", digits(101), "--yes")["name"]
    server.kill()
    with ServerProcess("--data", str(data)) as again:
        assert lookup(again.address, 1, 2, 3) == [None, None, digits(3)]
        with create_client(again.address) as client:
            assert client.report_unihash(digits(5), METHOD, digits(101), digits(5))["unihash"] == digits(5)
            assert client.report_unihash(digits(6), METHOD, digits(101), digits(6))["unihash"] == digits(6)
            assert client.release(name)["restored"] == 2
            assert client.report_unihash(digits(7), METHOD, digits(101), digits(7))["unihash"] == digits(1)


@pytest.mark.parametrize("way", ["undo", "load"])
def test_discard_and_back(shell: Shell, server: ServerProcess, data: Path, tmp_path: Path, way: str) -> None:
    undo = tmp_path / "undo.jsonl"
    assert "3 rows would be removed" in shell("discard", "--pn", "zlib")
    before = shell.json("find", "--pn", "*", "--limit", "100")
    shell("discard", "--pn", "zlib", "--yes", status=1)
    assert "--undo" in shell.error
    assert "3 rows removed, 3 mappings" in shell("discard", "--pn", "zlib", "--yes", "--undo", str(undo))
    assert lookup(server.address, 1, 2, 3, 4) == [None, None, None, digits(4)]
    shell("discard", "--pn", "zlib", "--yes", "--undo", str(undo), status=1)
    assert "not there yet" in shell.error
    lines = [json.loads(line) for line in undo.read_text().splitlines()]
    assert lines[-1] == {"type": "end", "entries": 0, "mappings": 3, "rows": 3}
    assert "libz.so" in lines[2]["outhash_siginfo"]
    if way == "undo":
        assert shell("undo", str(undo)) == "3 rows and 3 mappings are back"
        assert shell("undo", str(undo)) == "0 rows and 0 mappings are back"
        address = server.address
    else:
        server.stop()
        subprocess.run(["python", "-m", "shardhash", "load", "--data", str(data), str(undo)], check=True, timeout=60)
        again = ServerProcess("--data", str(data))
        address = again.address
        shell.options = ["--address", address]
    assert lookup(address, 1, 2, 3, 4) == [digits(1), digits(1), digits(3), digits(4)]
    after = shell.json("find", "--pn", "*", "--limit", "100")
    for row in (*before["rows"], *after["rows"]):
        del row["asked"]  # what is taken back counts as asked for on that day
    assert after == before
    with create_client(address) as client:
        row = client.get_row(METHOD, digits(3), digits(103))
        assert row is not None
        assert row["outhash_siginfo"] == siginfo("compile", built=103)
        assert client.report_unihash(digits(9), METHOD, digits(103), digits(9))["unihash"] == digits(3)
    if way == "load":
        assert again.stop() == 0


def test_rows_of_many_values_are_taken_back_some_at_a_time(shell: Shell, server: ServerProcess, tmp_path: Path) -> None:
    """A siginfo may have thousands of commas, each of which counts for a value as long as a request is not parsed."""
    undo = tmp_path / "undo.jsonl"
    texts = [f"{number}" + ",\n" * 9_000 for number in range(5)]
    with create_client(server.address) as client:
        for number, text in enumerate(texts, 20):
            client.report_unihash(
                digits(number), METHOD, digits(number), digits(number), {"PN": "long", "outhash_siginfo": text}
            )
        shell("discard", "--pn", "long", "--yes", "--undo", str(undo))
        assert shell("undo", str(undo)) == "5 rows and 5 mappings are back"
        for number, text in enumerate(texts, 20):
            row = client.get_row(METHOD, digits(number), digits(number))
            assert row is not None
            assert row["outhash_siginfo"] == text


def test_what_is_no_undo_file_is_refused(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("nothing\n")
    shell("undo", str(path), status=1)
    assert "line 1" in shell.error
