"""Export: import -> export -> import is equal, row by row; what is written is the stock server's own schema."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardhash import cli
from shardhash.base.timestamps import from_iso, to_iso
from shardhash.client import Client, create_client
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.wire.hashes import is_digest_text
from shardhash.wire.rows import DETAILS, SIGINFO
from tests.admin.directories import facts
from tests.moving import databases as db
from tests.moving.databases import METHOD, H, hash_of, mapping, row, user, write
from tests.player import CONFORMANCE
from tests.servers import ServerProcess

FS = OsFileSystem()
COLUMNS = {
    "unihashes_v3": "method, taskhash, unihash, gc_mark",
    "outhashes_v2": "method, taskhash, outhash, created, owner, PN, PV, PR, task, outhash_siginfo",
    "users": "username, token, permissions",
    "config": "name, value",
}


def run(*arguments: object) -> int:
    return cli.main([*map(str, arguments)])


def contents(path: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        return sorted(connection.execute(f"select {COLUMNS[table]} from {table}"), key=repr)


def definition(path: Path, table: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        columns = connection.execute(f"pragma table_info({table})")
        return [tuple(map(str.lower, map(str, column))) for column in columns]


def a_database(path: Path) -> Path:
    details = {"owner": "me", "PN": "zlib", "PV": "1.3", "PR": "r0", "task": "do_compile"}
    return write(
        path,
        mapping(H[1], H[2]), mapping("a" * 40, H[3], "monday"), mapping("text", H[2], method="other"),
        row(H[1], H[4], "2025-06-01T10:00:00.000001+00:00", **details, outhash_siginfo="sig\nüñ€\x00"),
        row(H[1], H[5], "2025-06-01T10:00:00.000000+00:00", outhash_siginfo=""),
        row(H[6], "b" * 40, "1970-01-01T00:00:00.000000+00:00"),
        user("ann", db.stock_token("secret", "salt:with"), "@all"), user("joe", db.stock_token("x"), ""),
        db.mark("monday"), ("config", {"name": "other", "value": "kept"}),
    )  # fmt: skip


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, out = a_database(tmp_path / "first.db"), tmp_path / "out.db"
    assert run("import", first, "--data", tmp_path / "data", "--workers", 3) == 0
    assert run("export", out, "--data", tmp_path / "data") == 0
    assert f"{out} holds 3 mappings, 3 outhash rows, 2 users and 2 settings\n" in capsys.readouterr().out
    for table in COLUMNS:
        assert contents(out, table) == contents(first, table)
    assert run("import", out, "--data", tmp_path / "again", "--workers", 2) == 0

    def without_ids(data: Path) -> set[str]:
        found = [json.loads(fact) for fact in facts(FS, data)]
        for fact in found:
            if fact[:2] == ["set", "user"]:
                fact[3] = json.loads(fact[3])
                del fact[3]["id"]
        return {json.dumps(fact) for fact in found}

    assert without_ids(tmp_path / "again") == without_ids(tmp_path / "data")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert not (tmp_path / "out.db.tmp").exists()


def test_the_schema_is_the_stock_servers(tmp_path: Path) -> None:
    """Column by column what the stock server makes itself."""
    assert run("import", a_database(tmp_path / "a.db"), "--data", tmp_path / "data") == 0
    assert run("export", tmp_path / "out.db", "--data", tmp_path / "data") == 0
    write(tmp_path / "stock.db")
    for table in db.NEW:
        found, expected = [definition(path, table) for path in (tmp_path / "out.db", tmp_path / "stock.db")]
        assert found == expected


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", a_database(tmp_path / "a.db"), "--data", tmp_path / "data") == 0
    for name in ("out.db", "other.db-wal"):
        (tmp_path / name).write_text("precious")
    for name in ("out.db", "other.db"):
        assert run("export", tmp_path / name, "--data", tmp_path / "data") == 1
        assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out.db").read_text() == "precious"
    assert run("export", tmp_path / "new.db", "--data", tmp_path) == 1
    assert "is not a data directory" in capsys.readouterr().err
    with lock_directory(tmp_path / "data"):
        assert run("export", tmp_path / "new.db", "--data", tmp_path / "data") == 1
    assert "shardhash backup DEST, then shardhash export OUT --data DEST" in capsys.readouterr().err
    assert run("export", tmp_path / "no" / "folder.db", "--data", tmp_path / "data") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tmp"))


def test_users_of_our_own(
    tmp_path: Path, start_server: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that shardhash gave works after the way back; an administrator's password cannot."""
    server = start_server(
        "--data",
        str(tmp_path / "data"),
        environment={"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "pw"},
    )
    with create_client(server.address, "admin", "pw") as client:
        token = client.new_user("builder", ["@read"])["token"]
    server.stop()
    assert run("export", tmp_path / "out.db", "--data", tmp_path / "data") == 0
    assert "left out: user admin: the old server cannot check a password of ours" in capsys.readouterr().out
    ((name, kept, permissions),) = contents(tmp_path / "out.db", "users")
    algorithm, salt, _ = kept.split(":")
    assert (name, permissions, db.stock_token(token, salt, algorithm)) == ("builder", "@read", kept)


def test_of_a_backup(tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    """The server goes on meanwhile."""
    server = start_server("--data", str(tmp_path / "data"))
    with create_client(server.address) as client:
        client.report_unihash(H[1], METHOD, H[2], H[3], {"outhash_siginfo": "text"})
        assert run("backup", tmp_path / "backup", "--data", tmp_path / "data") == 0
        client.report_unihash(H[4], METHOD, H[5], H[6])
        assert run("export", tmp_path / "out.db", "--data", tmp_path / "data") == 1
    assert run("export", tmp_path / "out.db", "--data", tmp_path / "backup") == 0
    assert contents(tmp_path / "out.db", "unihashes_v3") == [(METHOD, H[1], H[3], "")]
    ((*_, siginfo),) = contents(tmp_path / "out.db", "outhashes_v2")
    assert siginfo == "text"


# -------------------------------------------------------------------------------------- beside the stock server itself


@contextmanager
def stock_server(database: Path) -> Iterator[str]:
    """BitBake's own server on a database, from the checkout that BITBAKE_DIR names."""
    checkout = os.environ.get("BITBAKE_DIR")
    if not checkout:
        pytest.skip("BITBAKE_DIR names no checkout of BitBake")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, f"{checkout}/bin/bitbake-hashserv", "--bind", address, "--database", str(database)]
    with subprocess.Popen(command) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(address.split(":"), timeout=1).close()  # type: ignore[arg-type]
                    break
                except OSError:
                    assert time.monotonic() < until
                    assert process.poll() is None
                    time.sleep(0.05)
            yield address
        finally:
            process.kill()  # asked to end, it waits for its clients


def questions(client: Client) -> list[Any]:
    """What the two answer to everything that a build asks."""
    tasks = [hash_of("task", number) for number in range(120)]
    rows = [client.get_taskhash(METHOD, task, True) for task in tasks]
    outputs = [client.get_outhash(METHOD, hash_of("out", number), H[0]) for number in range(30)]
    for found in [*rows, *outputs]:
        if found:
            found.pop("id", None)
            found["created"] = to_iso(from_iso(found["created"]))
    return [
        rows,
        outputs,
        client.get_unihash_batch([(METHOD, task) for task in tasks]),
        client.unihash_exists_batch([hash_of("uni", number) for number in range(120)]),
        {table: values["rows"] for table, values in client.get_db_usage().items() if "hashes" in table},
        client.gc_status(),
    ]


def recorded() -> list[tuple[str, dict[str, Any]]]:
    """What the recorded clients of a plain server sent: command and fields."""
    found = []
    for path in sorted(CONFORMANCE.glob("*.jsonl")):
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines() if '"server": "auth"' not in text else ():
            event = json.loads(line)
            try:
                message = json.loads(event["send"]) if "send" in event else event.get("send_json")
            except json.JSONDecodeError:
                continue
            if isinstance(message, dict) and len(message) == 1:
                found += [(name, fields) for name, fields in message.items() if isinstance(fields, dict)]
    return found


def report_all(client: Client, sent: list[tuple[str, dict[str, Any]]]) -> int:
    """Report what was reported; how many."""
    reports = 0
    for name, fields in sent:
        if not is_digest_text(str(fields.get("unihash"))):
            continue
        extra = {key: value for key, value in fields.items() if key in (*DETAILS, SIGINFO)}
        if name == "report":
            client.report_unihash(fields["taskhash"], fields["method"], fields["outhash"], fields["unihash"], extra)
            reports += 1
        elif name == "report-equiv":
            client.report_unihash_equiv(fields["taskhash"], fields["method"], fields["unihash"])
            reports += 1
    return reports


def answers(address: str, sent: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What a server answers to all that was asked, with times in one form."""
    found: list[Any] = []
    with create_client(address) as client:
        for name, fields in sent:
            if name == "get" and {"method", "taskhash"} <= fields.keys():
                found.append(client.get_unihash(fields["method"], fields["taskhash"]))
                found.append(client.get_taskhash(fields["method"], fields["taskhash"], True))
            if name == "get-outhash" and {"method", "outhash", "taskhash"} <= fields.keys():
                outhash = (fields["method"], fields["outhash"], fields["taskhash"])
                found += [client.get_outhash(*outhash, with_unihash=with_unihash) for with_unihash in (True, False)]
    for answer in found:
        if isinstance(answer, dict):
            answer.pop("id", None)
            answer["created"] = to_iso(from_iso(answer["created"]))
    return found


def test_the_stock_server_knows_what_was_recorded(tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    """All reports of the transcripts here; then all their questions, here and there."""
    sent = recorded()
    server = start_server("--data", str(tmp_path / "data"))
    with create_client(server.address) as client:
        assert report_all(client, sent) > 20
    server.stop()
    assert run("export", tmp_path / "out.db", "--data", tmp_path / "data") == 0
    server = start_server("--data", str(tmp_path / "data"))
    with stock_server(tmp_path / "out.db") as address:
        expected = answers(address, sent)
        assert len([answer for answer in expected if answer]) > 20
        assert answers(server.address, sent) == expected


def test_the_stock_server_answers_alike(tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server("--data", str(tmp_path / "data"))
    with create_client(server.address) as client:
        for number in range(100):
            extra = {"PN": f"recipe-{number % 7}", "outhash_siginfo": f"text of {number}" if number % 3 else None}
            client.report_unihash(
                hash_of("task", number), METHOD, hash_of("out", number % 25), hash_of("uni", number), extra
            )
        client.gc_mark("monday", {"unihash": hash_of("uni", 3)})
        expected = questions(client)
    server.stop()
    assert run("export", tmp_path / "out.db", "--data", tmp_path / "data") == 0
    server = start_server("--data", str(tmp_path / "data"))
    with stock_server(tmp_path / "out.db") as address, create_client(address) as stock:
        assert questions(stock) == expected
        with create_client(server.address) as client:
            for number in range(100, 120):  # it goes on: known outputs, new ones, other tasks
                reported = (hash_of("task", number), METHOD, hash_of("out", number % 30), hash_of("uni", number))
                assert client.report_unihash(*reported) == stock.report_unihash(*reported)
    server.stop()
    # And what the stock server has added meanwhile comes back.
    assert run("import", tmp_path / "out.db", "--data", tmp_path / "fresh") == 0
    server = start_server("--data", str(tmp_path / "fresh"))
    with create_client(server.address) as client:
        assert client.get_unihash(METHOD, hash_of("task", 119)) is not None
