"""Copies between data directories and databases, by the command line, verified."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from shardhash import cli
from shardhash.client import create_client
from shardhash.database.digest import StateDigest
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.recovery import recover
from shardhash.stores.postgresql.asking import today
from shardhash.stores.postgresql.codec import pack_hash
from shardhash.stores.postgresql.schema import migrate
from shardhash.wire.hashes import ShardMap
from tests.servers import ServerProcess
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer

pytestmark = pytest.mark.once

METHODS = ("oe.sstatesig.OEOuthashBasic", "another-\U0001f4be-method")
ADMIN = ("--admin-user", "admin", "--admin-password", "password")


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    found = postgresql.create_database()
    asyncio.run(migrate(found))
    return found


def fill(address: str) -> str:
    """Store some of everything; the token of a user."""
    with create_client(address, username="admin", password="password") as client:
        for number in range(300):
            taskhash = secrets.token_hex(32) if number % 10 else f"task-{number}"
            outhash = secrets.token_hex(32) if number % 7 else "x" * 31
            extra = {"PN": f"recipe-{number}", "outhash_siginfo": "siginfo\0\n" * number} if number % 3 else {}
            client.report_unihash(taskhash, METHODS[number % 2], outhash, secrets.token_hex(32), extra)
        client.report_unihash("t", METHODS[0], "o", "ab" * 32)
        client.remove({"unihash": "ab" * 32})
        client.report_unihash("e" * 64, METHODS[0], "f" * 64, "cd" * 32)
        client.report_unihash_equiv("no-row", METHODS[1], "cd" * 32)
        client.report_unihash("q", METHODS[0], "ba" * 32, "ef" * 32)
        client.quarantine({"outhash": "ba" * 32}, "poisoned")
        client.gc_mark("a mark", {"unihash": "cd" * 32})
        token: str = client.new_user("ann", ["@read", "@report"], 3600)["token"]
    return token


def filled_directory(folder: Path, start_server: Callable[..., ServerProcess]) -> str:
    server = start_server("--data", str(folder), "--workers", "2", *ADMIN, binds=["ws://127.0.0.1:0"])
    token = fill(server.address)
    assert server.stop() == 0
    return token


def copy(*arguments: object) -> int:
    return cli.main(["copy", *map(str, arguments)])


def recovered(directory: Path, taskhash: str) -> Table:
    """The shard of a taskhash."""
    manifest = read_manifest(OsFileSystem(), directory)
    assert manifest is not None
    folder = manifest.folders(directory)[ShardMap(manifest.shards).of(taskhash)]
    return recover(OsFileSystem(), folder, lambda _: None).table


def dumped(folder: Path, file: Path) -> list[str]:
    assert cli.main(["dump", "--data", str(folder), str(file)]) == 0
    return sorted(file.read_text().splitlines())


def test_there_and_back_is_the_same(
    tmp_path: Path,
    url: str,
    postgresql: PostgresqlServer,
    start_server: Callable[..., ServerProcess],
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = filled_directory(tmp_path / "one", start_server)
    capsys.readouterr()
    assert copy(tmp_path / "one", url) == 0
    there = capsys.readouterr().out
    assert there.startswith("copied 7 users and settings, 302 mappings, 303 outhash rows; read back and found the same")
    with psycopg.connect(url) as connection:
        days = connection.execute(b"select taskhash, day from shardhash.asked").fetchall()
        assert days == [(pack_hash("no-row"), today())]
        connection.execute(b"update shardhash.asked set day = day - 7")
        connection.execute(b"update shardhash.asked_from set day = day - 8")
    assert copy(url, tmp_path / "two", "--shards", 3) == 0
    there = there.partition("digest")[0]
    back = capsys.readouterr().out
    assert back.startswith(there), "the same counts"
    table = recovered(tmp_path / "two", "no-row")
    assert (table.last_asked(METHODS[1], "no-row"), table.asked_from) == (today() - 7, today() - 8)
    other = postgresql.create_database()
    asyncio.run(migrate(other))
    assert copy(tmp_path / "two", other) == 0
    assert capsys.readouterr().out == back, "the same counts and the same digest"
    assert dumped(tmp_path / "one", tmp_path / "1.jsonl") == dumped(tmp_path / "two", tmp_path / "2.jsonl")
    server = start_server(binds=["ws://127.0.0.1:0"], environment={"SHARDHASH_STORE": url})
    with create_client(server.address, username="ann", password=token) as client:
        assert client.get_unihash(METHODS[0], "e" * 64) == "cd" * 32
    with create_client(server.address) as client:
        (quarantine,) = client.quarantines()
        assert quarantine["where"] == {"outhash": "ba" * 32}
        assert client.report_unihash("r", METHODS[0], "ba" * 32, "12" * 32)["unihash"] == "12" * 32
        assert client.report_unihash("s", METHODS[0], "ba" * 32, "34" * 32)["unihash"] == "34" * 32, "it is barred"
        assert client.remove({"unihash": "12" * 32})["count"] == client.remove({"unihash": "34" * 32})["count"] == 1
        assert client.gc_status() == {"keep": 2, "remove": 300, "mark": "a mark"}


def test_a_target_that_holds_something_is_left_alone(
    tmp_path: Path, url: str, start_server: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    filled_directory(tmp_path / "one", start_server)
    assert copy(tmp_path / "one", url) == 0
    capsys.readouterr()
    assert copy(tmp_path / "one", url) == 1
    assert copy(url, tmp_path / "one") == 1
    told = capsys.readouterr().err
    assert told.count("a copy needs an empty place") == 2
    assert PASSWORD not in told


def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path,
    url: str,
    start_server: Callable[..., ServerProcess],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled_directory(tmp_path / "one", start_server)
    with monkeypatch.context() as patch:
        patch.setattr(StateDigest, "text", property(lambda self: secrets.token_hex(4)))
        assert copy(tmp_path / "one", url) == 1
        assert "the copy is not what was read" in capsys.readouterr().err
    with psycopg.connect(url) as connection:
        for table in ("mapping", "outrow", "entry", "method"):
            assert connection.execute(f"select count(*) from shardhash.{table}".encode()).fetchone() == (0,)
    assert copy(tmp_path / "one", url) == 0
    with monkeypatch.context() as patch:
        patch.setattr(StateDigest, "text", property(lambda self: secrets.token_hex(4)))
        assert copy(url, tmp_path / "two") == 1
    assert not (tmp_path / "two" / "manifest.json").exists()
    assert copy(url, tmp_path / "two") == 0


def test_what_is_no_place_is_told(
    tmp_path: Path, postgresql: PostgresqlServer, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = postgresql.create_database()
    assert copy(tmp_path / "nothing", empty) == 1
    assert "shardhash migrate" in capsys.readouterr().err
    assert copy(tmp_path / "nothing", tmp_path / "new") == 1
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "new" / "manifest.json").exists()
    assert copy("mysql://host/db", tmp_path / "new") == 1
    assert "names no database" in capsys.readouterr().err
