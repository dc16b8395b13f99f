"""Import from PostgreSQL and export into it, with the tables as SQLAlchemy makes them for the stock server."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from shardhash import cli
from shardhash.base.timestamps import from_iso
from shardhash.shard.storage.filesystem import OsFileSystem
from tests.admin.directories import facts
from tests.moving import databases as db
from tests.moving.databases import METHOD, H, hash_of, mapping, row, user, write
from tests.moving.test_export import COLUMNS, contents
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer

FS = OsFileSystem()
TABLES = """
create table unihashes_v3 (id serial primary key, method text not null, taskhash text not null, unihash text not null,
    gc_mark text not null, unique (method, taskhash));
create table outhashes_v2 (id serial primary key, method text not null, taskhash text not null, outhash text not null,
    created timestamp without time zone, owner text, "PN" text, "PV" text, "PR" text, task text, outhash_siginfo text,
    unique (method, taskhash, outhash));
create table users (id serial primary key, username text not null, token text not null, permissions text,
    unique (username));
create table config (id serial primary key, name text not null, value text, unique (name));
"""


def made(postgresql: PostgresqlServer, tables: str = TABLES) -> str:
    """The URL of a new database with these tables."""
    url = postgresql.create_database()
    with psycopg.connect(url) as connection:
        connection.execute(tables.encode())
    return url


def rows_of(url: str, table: str) -> list[tuple[Any, ...]]:
    names = ", ".join(f'"{name}"' for name in COLUMNS[table].split(", "))
    with psycopg.connect(url) as connection:
        return sorted(connection.execute(f"select {names} from {table}".encode()), key=repr)


def run(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.main([*map(str, arguments)]) == status
    return capsys.readouterr()


def test_import(postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = made(postgresql)
    with psycopg.connect(url) as connection:
        insert = 'insert into outhashes_v2 (method, taskhash, outhash, created, "PN", outhash_siginfo) values'
        connection.execute(
            f"{insert} (%s, %s, %s, '2025-07-01 12:00:00', 'zlib', 'text')".encode(), [METHOD, H[1], H[3]]
        )
        connection.execute(f"{insert} (%s, %s, %s, null, null, null)".encode(), [METHOD, H[4], H[3]])
        for values in ([METHOD, H[1], H[2], "m"], [METHOD, H[4], "bad", ""]):
            connection.execute(
                "insert into unihashes_v3 (method, taskhash, unihash, gc_mark) values (%s, %s, %s, %s)", values
            )
        connection.execute(
            "insert into users (username, token, permissions) values ('joe', %s, '@read')", [db.stock_token("secret")]
        )
        connection.execute("insert into config (name, value) values ('gc-mark', 'm')")
    spelt = url.replace("postgresql://", "postgresql+asyncpg://")
    out, _ = run(
        capsys, "import", spelt, "--data", tmp_path / "data", "--source-timezone", "Europe/Berlin", "--json"
    )  # fmt: skip
    (source,) = json.loads(out)["sources"]
    assert PASSWORD not in out
    assert (source["mappings"]["new"], source["mappings"]["left_out"]) == (1, 1)
    assert (source["rows"]["new"], source["naive_times"], source["bad_times"]) == (2, 1, 1)
    assert (source["users"]["new"], source["gc_mark"]) == (1, "m")
    found = [json.loads(fact) for fact in facts(FS, tmp_path / "data")]
    created = {fact[2]: fact[4] for fact in found if fact[0] == "row"}
    assert created == {H[1]: from_iso("2025-07-01T10:00:00"), H[4]: 0}
    run(capsys, "import", url, "--data", tmp_path / "data", "--source-timezone", "Europe/Berlin")


def test_older_tables(postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = made(
        postgresql, "create table unihashes_v2 (id serial primary key, method text, taskhash text, unihash text)"
    )
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into unihashes_v2 (method, taskhash, unihash) values (%s, %s, %s)", [METHOD, H[1], H[2]]
        )
    out, _ = run(capsys, "import", url, "--data", tmp_path / "data", "--json")
    assert json.loads(out)["sources"][0]["mappings"]["new"] == 1


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "-05:00"])
def test_there_and_back(
    postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], zone: str
) -> None:
    first = db.write_many(tmp_path / "first.db", 2000, siginfo=200)
    write(
        tmp_path / "more.db", mapping(H[1], H[2], "m"), row(H[1], H[3], outhash_siginfo="nul \0 é", PN="zlib"),
        user("joe", db.stock_token("x"), "@read @report"), db.mark("m"),
    )  # fmt: skip
    run(capsys, "import", first, tmp_path / "more.db", "--data", tmp_path / "data")
    url = postgresql.create_database()
    out, _ = run(capsys, "export", url, "--data", tmp_path / "data", f"--timezone={zone}")
    assert PASSWORD not in out
    run(capsys, "import", url, "--data", tmp_path / "again", f"--source-timezone={zone}")
    run(capsys, "export", tmp_path / "one.db", "--data", tmp_path / "data")
    run(capsys, "export", tmp_path / "two.db", "--data", tmp_path / "again")
    for table in COLUMNS:
        one, two = contents(tmp_path / "one.db", table), contents(tmp_path / "two.db", table)
        assert [tuple(str(v).replace("\0", "�") for v in values) for values in one] == [
            tuple(map(str, values)) for values in two
        ]
    if zone == "Europe/Berlin":
        created = {values[1]: values[3] for values in rows_of(url, "outhashes_v2")}
        assert created[hash_of("task", 7)] == datetime(2025, 6, 1, 12, 0, 0, 7)  # noqa: DTZ001
        assert ZoneInfo(zone)
    # It is not filled twice, and what is there stays.
    before = rows_of(url, "unihashes_v3")
    _, err = run(capsys, "export", url, "--data", tmp_path / "data", status=1)
    assert "its table unihashes_v3 is not empty; export to a new database" in err
    assert rows_of(url, "unihashes_v3") == before


def test_an_export_that_fails_leaves_nothing(
    postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "import", db.write_many(tmp_path / "a.db", 50), "--data", tmp_path / "data")
    url = made(postgresql, "create table config (id serial primary key, other text)")
    run(capsys, "import", write(tmp_path / "m.db", db.mark("m")), "--data", tmp_path / "data")
    _, err = run(capsys, "export", url, "--data", tmp_path / "data", status=1)
    assert "cannot be written, and was left as it was" in err
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regclass('unihashes_v3')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: url.replace(PASSWORD, "wrong"), "cannot be reached"),
        (lambda url: url.replace("/test_", "/nowhere_"), "cannot be reached"),
        (lambda url: url, "is not a database of a hash equivalence server: .*its tables: none"),
    ],
)
def test_what_cannot_be_read(
    postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, text: str
) -> None:
    _, err = run(capsys, "import", change(postgresql.create_database()), "--data", tmp_path / "data", status=1)
    assert PASSWORD not in err
    assert "wrong@" not in err
    assert not (tmp_path / "data").exists()
    assert re.search(text, err), err


def test_password_of_the_environment(
    postgresql: PostgresqlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = made(postgresql)
    monkeypatch.setenv("HASHSERVER_DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("HASHSERVER_DB_USERNAME", "tester")
    run(capsys, "import", url.replace(f"tester:{PASSWORD}@", ""), "--data", tmp_path / "data")


def test_without_the_driver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    _, err = run(capsys, "import", "postgresql://joe:pw@localhost/db", "--data", tmp_path / "data", status=1)
    assert "postgresql://joe:***@localhost/db: PostgreSQL needs psycopg 3: pip install 'shardhash[postgresql]'" in err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://joe:s3cret-word@127.0.0.1:1/db",
        "postgresql+asyncpg://joe:s3cret-word@127.0.0.1:1/db",
        "postgresql://joe:s3cret-word/more@127.0.0.1:1/db",
        "postgresql://joe:s3cret-word@x@127.0.0.1:1/db",
        "postgresql://joe@127.0.0.1:1/db?password=s3cret-word&ssl=prefer",
        "postgresql://joe:s3cret-word@127.0.0.1:port/db",
        "postgresql://joe:s3cret-word@127.0.0.1:1/db?nonsense=1",
        "mysql://joe:s3cret-word/x@127.0.0.1/db",
    ],
)
def test_no_message_shows_a_password(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    for command in (["import", url, "--data", tmp_path / "data"], ["export", url, "--data", tmp_path / "there"]):
        if command[0] == "export":
            run(capsys, "import", write(tmp_path / "a.db", mapping(H[1], H[2])), "--data", tmp_path / "there")
        _, err = run(capsys, *command, status=1)
        assert "s3cret" not in err
        assert "joe" in err
