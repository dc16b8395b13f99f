"""Import of SQLite databases into a data directory: every rule, by databases in the very schemas."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shardhash import cli
from shardhash.admin.verify import verify
from shardhash.client import create_client
from shardhash.errors import InvokeError
from shardhash.moving import packing
from shardhash.server.cli import read_settings
from shardhash.shard.storage.filesystem import OsFileSystem
from tests.admin.directories import facts
from tests.moving import databases as db
from tests.moving.databases import METHOD, H, hash_of, mapping, row, user, write
from tests.servers import ServerProcess

FS = OsFileSystem()
A40 = "a" * 40


class Importer:
    """Runs ``shardhash import`` into a directory, and remembers what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data: Path) -> None:
        self._capsys = capsys
        self.data = data
        self.out = self.err = ""

    def __call__(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        line = ["import", *map(str, arguments), "--data", str(self.data), "--json"]
        found = cli.main([*line, "--source-timezone", "Europe/Berlin"] if "--source-timezone" not in line else line)
        self.out, self.err = self._capsys.readouterr()
        assert found == status, self.err
        return json.loads(self.out) if self.out else {}

    def source(self, *arguments: object) -> dict[str, Any]:
        """The report of the one database."""
        (source,) = self(*arguments)["sources"]
        return dict(source)

    def facts(self) -> list[list[Any]]:
        return [json.loads(fact) for fact in facts(FS, self.data)]

    def mappings(self) -> dict[str, tuple[str, str]]:
        return {fact[2]: (fact[3], fact[4]) for fact in self.facts() if fact[0] == "map"}

    def rows(self) -> dict[tuple[str, str], int]:
        return {(fact[2], fact[3]): fact[4] for fact in self.facts() if fact[0] == "row"}


@pytest.fixture
def importer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Importer:
    return Importer(capsys, tmp_path / "data")


def serve(data: Path, start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server("--data", str(data))


def test_a_whole_database(importer: Importer, tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    details = {"owner": "me", "PN": "zlib", "PV": "1.3", "PR": "r0", "task": "do_compile", "outhash_siginfo": "sig\n€"}
    path = write(
        tmp_path / "hashserv.db",
        mapping(H[1], H[2]),
        mapping(A40, H[3]),
        mapping("any-text", H[2]),
        row(H[1], H[4], **details),
        row(A40, H[5]),
        row(H[6], H[4]),
        user("joe", db.stock_token("secret"), "@read @db-admin"),
    )
    report = importer(path)
    assert report["source_timezone"] == "Europe/Berlin"
    (source,) = report["sources"]
    assert source["mappings"] == {"new": 3, "known": 0, "conflicts": 0, "left_out": 0}
    assert source["rows"] == {"new": 3, "known": 0, "older": 0, "left_out": 0}
    assert source["users"]["new"] == 1
    server = serve(importer.data, start_server)
    with create_client(server.address, "joe", "secret") as client:
        assert client.get_unihash(METHOD, A40) == H[3]
        assert client.get_unihash(METHOD, "any-text") == H[2]
        found = client.get_taskhash(METHOD, H[1], True)
        assert found == {
            "method": METHOD, "taskhash": H[1], "outhash": H[4], "created": db.UTC_TIME, "unihash": H[2], "gc_mark": "",
            **details,
        }  # fmt: skip
        assert client.get_user() == {"username": "joe", "permissions": ["@db-admin", "@read"]}
        usage = {table: values["rows"] for table, values in client.get_db_usage().items()}
        assert usage == {"unihashes_v3": 3, "outhashes_v2": 3, "users": 1, "config": 0}
    with pytest.raises(InvokeError, match="Unable to authenticate as joe"):
        create_client(server.address, "joe", "wrong")
    server.stop()
    # Once more: nothing is new, and nothing is written.
    before = sorted(path.name for path in importer.data.iterdir())
    source = importer.source(path)
    assert [source[kind]["new"] for kind in ("mappings", "rows", "users")] == [0, 0, 0]
    assert [source[kind]["known"] for kind in ("mappings", "rows", "users")] == [3, 3, 1]
    assert sorted(path.name for path in importer.data.iterdir()) == before


def test_older_schemas(importer: Importer, tmp_path: Path) -> None:
    older = write(
        tmp_path / "older.db", mapping(H[1], H[2], None), row(H[1], H[3], db.NAIVE_TIME), tables=db.OLDER
    )  # fmt: skip
    task = {"method": METHOD, "taskhash": H[4], "PN": "zlib"}
    oldest = write(
        tmp_path / "oldest.db",
        ("tasks_v2", task | {"outhash": H[5], "unihash": H[6], "created": "2020-01-02 00:00:00"}),
        ("tasks_v2", task | {"outhash": H[7], "unihash": H[8], "created": "2020-01-01 00:00:00"}),
        tables=db.OLDEST,
    )
    first, second = importer(older, oldest)["sources"]
    assert (first["mappings"]["new"], first["rows"]["new"], first["naive_times"]) == (1, 1, 1)
    assert (second["mappings"]["new"], second["rows"]["new"], second["naive_times"]) == (1, 2, 2)
    assert importer.mappings() == {H[1]: (H[2], ""), H[4]: (H[8], "")}
    assert verify(FS, sorted(importer.data.glob("generation-*/*")), lambda _: None).damage == []


def test_both_versions_of_the_mappings(importer: Importer, tmp_path: Path) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2], "m"), mapping(H[1], H[3], None), mapping(H[4], H[5], None),
                 tables=(*db.NEW, "unihashes_v2"))  # fmt: skip
    assert importer.source(path)["mappings"] == {"new": 2, "known": 0, "conflicts": 1, "left_out": 0}
    assert importer.mappings() == {H[1]: (H[2], "m"), H[4]: (H[5], "")}


@pytest.mark.parametrize("naive_first", [True, False])
def test_the_oldest_of_mixed_times(
    importer: Importer, tmp_path: Path, start_server: Callable[..., ServerProcess], naive_first: bool
) -> None:
    """As text, every time with a space is before every one with a T of its day; the day's last hours tell."""
    naive = "2025-06-01 12:30:00.000000" if naive_first else "2025-06-01 14:00:00.000000"  # 10:30, 12:00 UTC
    path = write(
        tmp_path / "db",
        mapping(H[1], H[2]), row(H[1], H[9], naive),
        mapping(H[3], H[4]), row(H[3], H[9], "2025-06-01T11:00:00+00:00"),
    )  # fmt: skip
    source = importer.source(path)
    assert source["naive_times"] == 1
    with create_client(serve(importer.data, start_server).address) as client:
        found = client.get_outhash(METHOD, H[9], H[9])
        assert found is not None
        assert found["taskhash"] == (H[1] if naive_first else H[3])
        answer = client.report_unihash(H[5], METHOD, H[9], H[5])
        assert answer["unihash"] == (H[2] if naive_first else H[4])


def test_what_a_client_would_choke_on_is_left_out(importer: Importer, tmp_path: Path) -> None:
    bad = ["", A40, H[10].upper(), "x" * 64, H[1] + " "]
    rows = [mapping(hash_of("task", n), unihash) for n, unihash in enumerate(bad)]
    path = write(tmp_path / "db", *rows, mapping(H[1], H[2]), row(hash_of("task", 0), H[3], outhash_siginfo=None),
                 row(H[1], H[3], None), row(H[2], H[3], "noon"))  # fmt: skip
    source = importer.source(path)
    assert source["mappings"] == {"new": 1, "known": 0, "conflicts": 0, "left_out": len(bad)}
    assert source["left_out"][1] == (
        f"mapping {METHOD} {hash_of('task', 1)}: its unihash '{A40}' is not 64 lowercase hex digits"
    )
    assert source["bad_times"] == 2
    assert importer.rows() == {(hash_of("task", 0), H[3]): importer.rows()[hash_of("task", 0), H[3]],
                               (H[1], H[3]): 0, (H[2], H[3]): 0}  # fmt: skip


def test_what_is_no_text(importer: Importer, tmp_path: Path) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2]))
    with closing(sqlite3.connect(path)) as connection:
        for value in (b"\xff\xfe", H[3].encode()):
            db.insert(connection, "unihashes_v3", method=METHOD, taskhash=value, unihash=H[2], gc_mark="")
        row_of = "insert into outhashes_v2 (method, taskhash, outhash, PN, outhash_siginfo)"
        connection.execute(f"{row_of} values (?, ?, ?, ?, cast(x'41ff42' as text))", (METHOD, H[1], H[3], b"blob"))
        connection.execute(f"{row_of} values (?, ?, ?, ?, ?)", (METHOD, H[2], H[3], "ok", "text"))
        connection.commit()
    source = importer.source(path)
    assert source["mappings"] == {"new": 1, "known": 0, "conflicts": 0, "left_out": 2}
    assert source["rows"] == {"new": 2, "known": 0, "older": 0, "left_out": 0}
    texts = [fact for fact in importer.facts() if len(fact) == 3]
    assert {fact[2] for fact in texts} == {"A�B", "text"}


def test_several_databases_merge(importer: Importer, tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.db", mapping(H[1], H[2]), row(H[1], H[3], "2025-06-02T00:00:00+00:00", outhash_siginfo="late"),
        user("joe", db.stock_token("one")), user("ann", db.stock_token("same")),
    )  # fmt: skip
    second = write(
        tmp_path / "b.db", mapping(H[1], H[4]), mapping(H[5], H[6]),
        row(H[1], H[3], "2025-06-01T00:00:00+00:00", outhash_siginfo="early"), row(H[1], H[7]),
        user("joe", db.stock_token("two")), user("ann", db.stock_token("same")), user("bad", "x:y"),
    )  # fmt: skip
    report = importer(first, second)
    one, two = report["sources"]
    assert one["mappings"]["new"] == one["rows"]["new"] == 1
    assert two["mappings"] == {"new": 1, "known": 0, "conflicts": 1, "left_out": 0}
    assert two["rows"] == {"new": 1, "known": 0, "older": 1, "left_out": 0}
    assert two["users"] == {"new": 0, "known": 1, "conflicts": 1, "left_out": 1}
    assert two["conflicts"] == [
        {"kind": "mapping", "method": METHOD, "taskhash": H[1], "kept": H[2], "dropped": H[4]},
        {"kind": "user", "username": "joe", "kept": "the one that is here", "dropped": "this one"},
    ]
    assert importer.mappings() == {H[1]: (H[2], ""), H[5]: (H[6], "")}
    merged = facts(FS, importer.data)
    assert [fact for fact in importer.facts() if len(fact) == 3 and fact[2]] == [
        [str(bytes.fromhex(H[1])), str(bytes.fromhex(H[3])), "early"]
    ]
    # Again, in any order, changes nothing; the other order into another directory has the other's unihash.
    for order in ([first, second], [second, first]):
        assert all(source[kind]["new"] == 0 for source in importer(*order)["sources"] for kind in ("mappings", "rows"))
        assert facts(FS, importer.data) == merged
    importer.data = tmp_path / "other"
    importer(second, first)
    assert importer.mappings()[H[1]] == (H[4], "")
    assert importer.rows().keys() == {(H[1], H[3]), (H[1], H[7])}


def test_into_a_directory_that_is_there(
    importer: Importer, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server("--data", str(importer.data), "--workers", "2")
    with create_client(server.address) as client:
        client.report_unihash(H[1], METHOD, H[3], H[1], {"outhash_siginfo": "from here"})
    path = write(tmp_path / "db", mapping(H[1], H[2]), mapping(H[4], H[5]), row(H[1], H[3]), row(H[4], H[3]))
    importer(path, status=1)
    assert "is in use by process" in importer.err
    assert "or import into the server that runs: --address" in importer.err
    server.stop()
    source = importer.source(path)
    assert source["mappings"] == {"new": 1, "known": 0, "conflicts": 1, "left_out": 0}
    assert source["rows"] == {"new": 1, "known": 0, "older": 1, "left_out": 0}
    assert importer.mappings() == {H[1]: (H[1], ""), H[4]: (H[5], "")}
    server = start_server("--data", str(importer.data))
    with create_client(server.address) as client:
        client.report_unihash(H[6], METHOD, H[7], H[6], {"outhash_siginfo": "new"})
        row_of_new = client.get_taskhash(METHOD, H[6], True)
        assert row_of_new is not None
        assert row_of_new["outhash_siginfo"] == "new"
    server.stop()
    assert cli.main(["verify", "--data", str(importer.data)]) == 0


def test_siginfo_of_what_was_there_stays(importer: Importer, tmp_path: Path) -> None:
    first = db.write_many(tmp_path / "a.db", 50, siginfo=300)
    importer(first, "--workers", "3")
    before = facts(FS, importer.data)
    importer(db.write_many(tmp_path / "b.db", 50, siginfo=300, start=25))
    after = facts(FS, importer.data)
    assert before < after
    assert len(list(importer.data.glob("generation-*/*"))) == 3
    importer.data = tmp_path / "whole"
    importer(db.write_many(tmp_path / "c.db", 75, siginfo=300))
    assert facts(FS, importer.data) == after


def test_much_siginfo_is_packed_beside(importer: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = db.write_many(tmp_path / "db", 300, siginfo=2000)
    importer(path)
    inline = facts(FS, importer.data)
    monkeypatch.setattr(packing, "WORTH_IT", 1000)
    monkeypatch.setattr("shardhash.moving.merging.BATCH_CHARACTERS", 20_000)
    monkeypatch.setattr("shardhash.moving.importing.usable_cores", lambda: 3)
    importer.data = tmp_path / "other"
    importer(path)
    assert facts(FS, importer.data) == inline


def test_marks_of_one_database(importer: Importer, tmp_path: Path, start_server: Callable[..., ServerProcess]) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2], "monday"), mapping(H[3], H[4]), db.mark("monday"))
    assert importer.source(path)["gc_mark"] == "monday"
    assert importer.mappings() == {H[1]: (H[2], "monday"), H[3]: (H[4], "")}
    with create_client(serve(importer.data, start_server).address) as client:
        assert client.gc_status() == {"mark": "monday", "keep": 1, "remove": 1}
        assert client.gc_sweep("monday") == {"count": 1}


def test_a_sweep_takes_nothing_that_another_database_brought(importer: Importer, tmp_path: Path) -> None:
    marked = write(tmp_path / "m.db", mapping(H[1], H[2], "x"), mapping(H[3], H[4], ""), db.mark("x"))
    plain = write(tmp_path / "p.db", mapping(H[5], H[6]), mapping(H[7], H[8], "old"))
    importer(marked, plain)
    expected = {H[1]: (H[2], "x"), H[3]: (H[4], ""), H[5]: (H[6], "x"), H[7]: (H[8], "x")}
    assert importer.mappings() == expected
    importer.data = tmp_path / "other"
    importer(plain)
    assert importer.mappings() == {H[5]: (H[6], ""), H[7]: (H[8], "old")}
    importer(marked)
    assert importer.mappings() == expected
    importer(write(tmp_path / "y.db", mapping(H[9], H[1], "y"), db.mark("y")))
    assert importer.mappings() == expected | {H[9]: (H[1], "x")}


def test_no_users(importer: Importer, tmp_path: Path) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2]), user("joe", db.stock_token("secret")))
    source = importer.source(path, "--no-users")
    assert source["users"] == {"new": 0, "known": 0, "conflicts": 0, "left_out": 0}
    assert not [fact for fact in importer.facts() if fact[0] == "set"]


def test_unknown_permissions_and_our_own_settings(importer: Importer, tmp_path: Path) -> None:
    path = write(tmp_path / "db", user("joe", db.stock_token("s"), "@all @fly @none"),
                 ("config", {"name": "administrator", "value": "evil"}), ("config", {"name": "other", "value": "kept"}),
                 db.mark(None))  # fmt: skip
    importer(path)
    entries = {(fact[1], fact[2]): json.loads(fact[3]) for fact in importer.facts() if fact[0] == "set"}
    assert entries["user", "joe"]["permissions"] == ["@all"]
    assert entries.keys() == {("user", "joe"), ("config", "other")}


def test_while_the_old_server_writes(importer: Importer, tmp_path: Path) -> None:
    """WAL mode, a writer in the middle of a transaction, and the last writes in the log only."""
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        db.make_tables(connection)
        db.put(connection, mapping(H[1], H[2]))
        connection.commit()
        db.put(connection, mapping(H[3], H[4]))
        assert importer.source(path)["mappings"]["new"] == 1
        connection.commit()
        source = importer.source(path)
        assert (source["mappings"]["new"], source["mappings"]["known"]) == (1, 1)
        db.put(connection, mapping(H[5], H[6]))
        connection.commit()  # it goes on writing


def test_a_database_in_a_folder_that_cannot_be_written(importer: Importer, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    path = write(folder / "db", mapping(H[1], H[2]))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
    before = sorted(folder.iterdir())
    folder.chmod(0o555)
    try:
        assert importer.source(path)["mappings"]["new"] == 1
    finally:
        folder.chmod(0o755)
    assert [path.name for path in before] == ["db"]


def test_a_transaction_that_was_cut_off_is_not_taken_for_data(importer: Importer, tmp_path: Path) -> None:
    """The old server was killed in the middle of one, without WAL: the file holds a half, the journal the rest."""
    whole, cut = db.write_many(tmp_path / "whole.db", 500), tmp_path / "cut.db"
    with closing(sqlite3.connect(whole)) as connection:
        connection.execute("pragma cache_size = 5")
        connection.execute("update outhashes_v2 set PN = 'another name, longer than before'")
        for ending in ("", "-journal"):
            shutil.copy(f"{whole}{ending}", f"{cut}{ending}")
    importer(cut, status=1)
    assert "its last transaction has to be finished first" in importer.err
    with closing(sqlite3.connect(cut)) as connection:
        assert connection.execute("select count(*) from outhashes_v2").fetchone() == (500,)
    assert importer.source(cut)["rows"]["new"] == 500


def test_urls_of_sqlalchemy(importer: Importer, tmp_path: Path) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2]))
    assert importer.source(f"sqlite+aiosqlite:///{path}")["mappings"]["new"] == 1
    importer("mysql+pymysql://joe:secret@host/db", status=1)
    assert "mysql+pymysql://joe:***@host/db: databases of this kind are not read" in importer.err
    assert "secret" not in importer.err


def foreign(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "foreign"
    match kind:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("no database")
        case "dump":
            path.write_bytes(b'{"format":"shardhash dump","version":1}\n')
        case "other":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("create table things (name)")
        case "columns":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("create table unihashes_v3 (method, unihash)")
        case "broken":
            db.write_many(path, 2000)
            content = bytearray(path.read_bytes())
            for offset in range(len(content) // 2, len(content), 4096):
                content[offset : offset + 200] = bytes(200)
            path.write_bytes(content)
        case "cut":
            db.write_many(path, 2000)
            path.write_bytes(path.read_bytes()[:50_000])
    return path


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "cannot be read: No such file"),
        ("folder", "is a folder, not a database file"),
        ("empty", "is empty; name the file"),
        ("text", "is no SQLite database; name the file"),
        ("dump", "use shardhash load"),
        ("other", "is not a database of a hash equivalence server: .*its tables: things"),
        ("columns", "its table unihashes_v3 lacks the columns taskhash"),
        ("broken", "cannot be read as a database: .*Nothing was imported"),
        ("cut", "cannot be read as a database: .*Nothing was imported"),
    ],
)
def test_what_is_no_sound_database_changes_nothing(importer: Importer, tmp_path: Path, kind: str, text: str) -> None:
    good = write(tmp_path / "good.db", mapping(H[1], H[2]))
    bad = foreign(tmp_path, kind)
    importer(good, bad, status=1)
    assert re.search(text, importer.err, re.DOTALL), importer.err
    assert not (importer.data / "manifest.json").exists()
    importer(good)  # the same directory, begun anew
    before = facts(FS, importer.data)
    importer(good, bad, status=1)
    assert facts(FS, importer.data) == before
    assert importer.source(good)["mappings"]["known"] == 1


def test_the_report_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2]), mapping(H[3], "bad\x1b[2J"), row(H[1], H[3], db.NAIVE_TIME))
    assert cli.main(["import", str(path), "--data", str(tmp_path / "data"), "--source-timezone", "UTC"]) == 0
    out = capsys.readouterr().out
    assert f"{path}:\n  mappings      1 new, 1 left out\n  outhash rows  1 new\n  users         0 new\n" in out
    assert "1 time without a zone was taken as UTC" in out
    assert "left out: mapping" in out
    assert "\x1b" not in out
    assert out.endswith(f"start the server on it: shardhash serve --data {tmp_path}/data\n")


def test_a_start_says_whether_the_database_was_imported(
    importer: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (write(tmp_path / name, mapping(H[1], H[2])) for name in ("first.db", "second.db"))

    def told(path: str | Path) -> tuple[list[str], tuple[str, ...]]:
        found = read_settings(["-d", str(path), "--data", str(importer.data), "--workers", "1"], {})
        return found.warnings(), found.notices

    assert f"shardhash import {first}" in told(first)[0][0]
    importer("--workers", "1", f"sqlite:///{first}")
    monkeypatch.chdir(tmp_path)
    for path in (first, "first.db"):
        warnings, notices = told(path)
        assert warnings == []
        assert f"{path} of the stock server was imported into {importer.data} at 20" in notices[-1]
    assert f"shardhash import {second}" in told(second)[0][0]
    importer("second.db")
    assert told(second)[0] == told(first)[0] == []
    (importer.data / "imported.json").write_text("[no json")
    assert f"shardhash import {first}" in told(first)[0][0]


def test_a_wrong_zone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["import", "x.db", "--source-timezone", "Moon"])
    assert exit_.value.code == 2
    assert "--source-timezone: 'Moon' is not a time zone" in capsys.readouterr().err


def test_the_source_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a unit of the old server: the file it names, into the directory that serve would use."""
    path = write(tmp_path / "hashserv.db", mapping(H[1], H[2]))
    monkeypatch.delenv("HASHSERVER_DB", raising=False)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["import"])
    assert exit_.value.code == 2
    assert "SOURCE is missing" in capsys.readouterr().err
    monkeypatch.setenv("HASHSERVER_DB", str(path))
    assert cli.main(["import"]) == 0
    assert (tmp_path / "hashserv.db.shardhash" / "manifest.json").exists()
