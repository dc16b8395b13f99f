"""The offline tools as commands: what they print, their exit status, and what they refuse."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash import cli
from shardhash.admin.cli import PATIENCE, telling
from shardhash.base.timestamps import to_iso
from shardhash.client import create_client
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.recovery import now
from tests.admin.directories import Writer, facts, hash_of
from tests.servers import ServerProcess

FS = OsFileSystem()
TAKEN = "of these 1 user was taken along: joe (@read)\n"


class Shell:
    """Runs commands on a data directory, and remembers what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data: Path) -> None:
        self._capsys = capsys
        self.data = data
        self.out = self.err = ""

    def __call__(self, *arguments: object, data: Path | None = None) -> int:
        status = cli.main([*map(str, arguments), "--data", str(data or self.data)])
        self.out, self.err = self._capsys.readouterr()
        return status


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    (tmp_path / "data").mkdir(mode=0o700)
    writer = Writer(FS, tmp_path / "data")
    writer.fill(range(1, 30))
    writer.snapshot()
    writer.fill(range(30, 40))
    writer.close()
    return Shell(capsys, tmp_path / "data")


def damage(path: Path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def a_segment(data: Path) -> Path:
    """One that is full, behind the snapshot."""
    shard = next(data.glob("generation-*/shard-000"))
    return sorted(shard.glob("*.log"))[-2]


def test_verify_and_repair(shell: Shell) -> None:
    assert shell("verify") == 0
    assert shell.out.startswith("no damage: 2 shards, 37 mappings, 39 outhash rows, ")
    assert shell("repair") == 0
    assert shell.out == "no damage; nothing was changed\n"
    path = a_segment(shell.data)
    damage(path)
    before = path.read_bytes()
    for arguments in (["verify"], ["repair"]):
        assert shell(*arguments) == 1
        assert f"damaged: {path}: at byte " in shell.out
        assert path.read_bytes() == before
    assert shell.out.endswith(f"nothing was changed; to repair: shardhash repair --data {shell.data} --yes\n")
    expected = shell.out.splitlines()[:-1]
    assert shell("repair", "--yes") == 0
    assert "lost: " in shell.out
    assert shell.out.replace("saved: ", "would save: ").splitlines()[:-1] == expected
    (aside,) = shell.data.glob("aside-*")
    assert f"everything that was there is kept in {aside}" in shell.out
    assert (aside / path.relative_to(shell.data)).read_bytes() == before
    assert shell("verify") == 0


def test_backup_and_restore(shell: Shell, tmp_path: Path) -> None:
    saved = facts(FS, shell.data)
    assert shell("backup", tmp_path / "backup") == 0
    assert shell.out.startswith(f"{tmp_path}/backup is a backup as of 20")
    assert shell("verify", data=tmp_path / "backup") == 0
    assert shell("restore", tmp_path / "backup", data=tmp_path / "new") == 0
    assert f"{tmp_path}/new is {tmp_path}/backup as of 20" in shell.out
    assert facts(FS, tmp_path / "new") == saved
    assert shell("restore", tmp_path / "backup") == 1
    assert "is not empty" in shell.err
    assert shell("restore", tmp_path / "backup", "--dry-run") == 0
    assert shell.out.startswith(f"nothing would change: {shell.data} holds what {tmp_path}/backup does as of 20")
    assert shell("restore", tmp_path / "backup", "--force") == 0
    assert "what it held before is kept in" in shell.out
    assert facts(FS, shell.data) == saved
    assert shell("backup", tmp_path / "backup") == 0
    assert ", no longer as of 20" in shell.out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").touch()
    assert shell("backup", tmp_path / "other") == 1
    assert "something else than a backup; name another folder" in shell.err
    assert shell("restore", tmp_path / "backup", "--dry-run", data=tmp_path / "other") == 1
    assert "is not empty; name a new one, or move it aside first\n" in shell.err


def test_times(shell: Shell, tmp_path: Path) -> None:
    moment = now()
    writer = Writer(FS, shell.data)
    writer.fill(range(40, 43))
    writer.close()
    text = to_iso(moment)
    assert shell("restore", shell.data, "--until", text, "--force", "--dry-run") == 0
    assert shell.out.splitlines()[1:] == [
        "would go: 2 mappings, 3 outhash rows, 0 users and settings",
        "would come: 0 mappings, 0 outhash rows, 0 users and settings",
    ]
    assert shell("restore", shell.data, "--until", text, "--dry-run") == 0
    assert shell.out.splitlines()[-1].startswith(f"{shell.data} is not empty: this takes --force")
    assert shell("restore", shell.data, "--until", text, data=tmp_path / "new") == 0
    assert shell.out == f"{tmp_path}/new is {shell.data} as of {to_iso(moment, 'seconds')}, and verified\n"
    for time, words in (("2099-01-01T00:00+01:00", "leave --until out"), ("2020-01-01", "goes back to")):
        for more in ([], ["--dry-run"]):
            assert shell("restore", shell.data, "--until", time, *more, data=tmp_path / "other") == 1
            assert words in shell.err
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit) as exit_:
        shell("restore", shell.data, "--until", "yesterday", data=tmp_path / "other")
    assert exit_.value.code == 2


def test_dump_and_load(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = facts(FS, shell.data)
    assert shell("dump", tmp_path / "dump") == 0
    assert (tmp_path / "dump").stat().st_mode & 0o777 == 0o600
    assert shell("load", tmp_path / "dump", "--workers", "3", "--users", data=tmp_path / "new") == 0
    assert shell.out == f"loaded 37 mappings, 39 outhash rows, 2 users and settings into {tmp_path}/new\n" + TAKEN
    assert facts(FS, tmp_path / "new") == saved
    assert shell("load", tmp_path / "dump", data=tmp_path / "new") == 0
    assert facts(FS, tmp_path / "new") == saved
    assert shell("verify", data=tmp_path / "new") == 0
    assert shell.out.startswith("no damage: 3 shards")
    # Standard output and input, and a dump that is cut off.
    assert shell("dump") == 0
    lines = shell.out.splitlines()
    assert json.loads(lines[-1])["mappings"] == 37
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines[:-1]).encode())))
    assert shell("load", "-", data=tmp_path / "cut") == 1
    assert "the dump is cut off" in shell.err
    assert not (tmp_path / "cut").exists()
    assert shell("load", "/nowhere/dump") == 1
    assert shell.err == "shardhash load: there is no /nowhere/dump\n"
    assert facts(FS, shell.data) == saved


def test_what_is_there_wins_over_a_dump(shell: Shell, tmp_path: Path) -> None:
    writer = Writer(FS, shell.data)
    assert shell("dump", tmp_path / "dump") == 0
    changed = hash_of("task", 5)
    writer.write(writer.home(changed), ("map", "sstate", changed, hash_of("other", 1), ""))
    gone = hash_of("task", 6)
    writer.write(writer.home(gone), ("unmap", "sstate", [gone]))
    writer.close()
    present = facts(FS, shell.data)
    assert shell("load", tmp_path / "dump") == 0
    loaded = facts(FS, shell.data)
    assert loaded > present
    (back,) = loaded - present
    assert json.loads(back)[:3] == ["map", "sstate", gone]


def test_a_running_server_keeps_them_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    shell = Shell(capsys, tmp_path / "data")
    server = start_server("--data", str(shell.data), "--workers", "2")
    with create_client(server.address) as client:
        for number in range(20):
            client.report_unihash(hash_of("task", number), "m", hash_of("out", number), hash_of("task", number))
    (tmp_path / "dump").write_text("{}")
    for command in (["repair", "--yes"], ["dump"], ["load", tmp_path / "dump"], ["restore", shell.data, "--force"]):
        assert shell(*command) == 1
        assert "is in use by process" in shell.err
        assert ("shardhash backup DEST, then shardhash dump --data DEST" in shell.err) == (command == ["dump"])
    assert shell("verify") == 0
    assert "note: a server is running" in shell.err
    assert shell.out.startswith("no damage: 2 shards, 20 mappings, 20 outhash rows")
    assert shell("backup", tmp_path / "backup") == 0
    assert shell("dump", data=tmp_path / "backup") == 0
    assert shell.out.count('"mapping"') == 20


def test_what_is_no_data_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shell = Shell(capsys, tmp_path)
    (tmp_path / "file").write_text("precious")
    for command in (["verify"], ["repair", "--yes"], ["backup", tmp_path / "b"], ["dump"]):
        assert shell(*command) == 1
        assert "not a data directory" in shell.err
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "lock"}


def test_what_is_no_folder(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data directories and sources that are not there, or files; each command says which, and what to do."""
    database = tmp_path / "hashserv.db"
    database.write_bytes(b"SQLite format 3\0")
    is_file = f"{database} is a file, not a folder; if it is the old server's database: shardhash import {database}"
    commands: list[list[object]] = [["verify"], ["repair"], ["backup", tmp_path / "b"], ["dump"], ["snapshot"]]
    commands.append(["export", tmp_path / "out.db"])
    for command in commands:
        for data, words in ((tmp_path / "nosuch", f"there is no folder {tmp_path}/nosuch\n"), (database, is_file)):
            with pytest.raises(SystemExit) as exit_:
                shell(*command, data=data)
            assert exit_.value.code == 2
            assert words in capsys.readouterr().err
    for command in (["restore", shell.data], ["restore", shell.data, "--dry-run"]):
        for data in (database, database / "below"):
            assert shell(*command, data=data) == 1
            assert is_file in shell.err
    assert shell("restore", database, data=tmp_path / "new") == 1
    assert is_file in shell.err
    assert shell("restore", tmp_path / "nosuch", data=tmp_path / "new") == 1
    assert shell.err == f"shardhash restore: there is no folder {tmp_path}/nosuch\n"
    assert shell("backup", database) == 1
    assert shell.err == f"shardhash backup: {database} is a file; name a folder for the backup\n"
    # Where --data was forgotten.
    monkeypatch.chdir(tmp_path)
    for name in ("SHARDHASH_DATA", "HASHSERVER_DATABASE", "HASHSERVER_DB"):
        monkeypatch.delenv(name, raising=False)
    for command in commands:
        with pytest.raises(SystemExit) as exit_:
            cli.main([*map(str, command)])
        assert exit_.value.code == 2
        assert "there is no folder hashserv.shardhash (the default); name yours with --data" in capsys.readouterr().err


def test_a_folder_without_its_option(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(shell.data)]) == 0
    assert "no damage" in capsys.readouterr().out
    for command, words in (
        (["verify", shell.data, "--data", shell.data], "FOLDER and --data are both given"),
        (["dump", shell.data], f"to dump it: shardhash dump --data {shell.data}\n"),
        (["repair", shell.data, "--data", shell.data], f"did you mean --data {shell.data}?"),
        (["snapshot", shell.data, "--data", shell.data], f"did you mean --data {shell.data}?"),
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*map(str, command)])
        assert exit_.value.code == 2
        assert words in capsys.readouterr().err


def test_progress_comes_late_and_seldom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    tell = telling()
    for seconds in (0.0, PATIENCE - 0.1, PATIENCE, PATIENCE + 0.1, PATIENCE + 1):
        clock[0] = 100.0 + seconds
        tell(f"after {seconds}")
    assert capsys.readouterr().err == "after 2.0\nafter 3.0\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_backup_is_verified(shell: Shell, tmp_path: Path) -> None:
    assert shell("backup", tmp_path / "backup") == 0
    for path in [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert shell("verify", data=tmp_path / "backup") == 0


def test_the_lock_is_asked_for_once(shell: Shell) -> None:
    with lock_directory(shell.data):
        assert shell("repair") == 1
    assert "stop it first" in shell.err


def test_a_database_is_no_dump(shell: Shell, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as database:
        database.execute("create table unihashes_v3 (method)")
    saved = facts(FS, shell.data)
    assert shell("load", tmp_path / "old.db") == 1
    assert f"shardhash import {tmp_path}/old.db --data {shell.data}" in shell.err
    assert facts(FS, shell.data) == saved
