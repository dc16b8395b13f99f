"""Import into a server that runs, and the live move: in front of the old server, then alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from shardhash import cli
from shardhash.base.timestamps import from_iso, to_iso
from shardhash.client import create_client
from shardhash.client.reports import in_batches, weight_of
from shardhash.coordinator.limits import ServerLimits
from shardhash.moving import live
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.wire.framing import check_values
from tests.admin.directories import facts
from tests.moving import databases as db
from tests.moving.databases import METHOD, H, hash_of, mapping, row, user, write
from tests.moving.test_export import stock_server
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

FS = OsFileSystem()
Start = Callable[..., ServerProcess]
ADMIN = {"SHARDHASH_ADMIN_USER": "admin", "SHARDHASH_ADMIN_PASSWORD": "pw"}


class Live:
    """Runs ``shardhash import --address``."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, address: str, *arguments: object, status: int = 0) -> list[dict[str, Any]]:
        self._capsys.readouterr()
        found = cli.main(["import", *map(str, arguments), "--address", address, "--json", "--source-timezone", "UTC"])
        out, self.err = self._capsys.readouterr()
        assert found == status, self.err
        return list(json.loads(out)["sources"]) if out else []


@pytest.fixture
def live_import(capsys: pytest.CaptureFixture[str]) -> Live:
    return Live(capsys)


def facts_without_ids(data: Path) -> set[str]:
    found = [json.loads(fact) for fact in facts(FS, data)]
    for fact in found:
        if fact[:2] == ["set", "user"]:
            fact[3] = {name: value for name, value in json.loads(fact[3]).items() if name != "id"}
    return {json.dumps(fact) for fact in found if fact[:3] != ["set", "config", "administrator"]}


def test_the_same_as_into_a_directory(
    live_import: Live, tmp_path: Path, start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "ROWS_AT_ONCE", 64)
    path = db.write_many(tmp_path / "db", 500, siginfo=200)
    server = start_server("--data", str(tmp_path / "live"), "--workers", "2")
    (report,) = live_import(server.address, path)
    assert report["rows"] == {"new": 500, "known": 0, "older": 0, "left_out": 0}
    (again,) = live_import(server.address, path)
    assert again["mappings"]["known"] == report["mappings"]["new"]
    assert again["rows"] == {"new": 0, "known": 500, "older": 0, "left_out": 0}
    server.stop()
    assert cli.main(["import", str(path), "--data", str(tmp_path / "offline"), "--source-timezone", "UTC"]) == 0
    assert facts(FS, tmp_path / "live") == facts(FS, tmp_path / "offline")
    assert cli.main(["verify", "--data", str(tmp_path / "live")]) == 0


def test_what_is_there_wins_and_the_oldest_time_is_kept(live_import: Live, tmp_path: Path, start_server: Start) -> None:
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2")
    with create_client(server.address) as client:
        for task in (H[1], H[2]):
            client.report_unihash(task, METHOD, H[9], H[1], {"outhash_siginfo": "of now"})
        path = write(
            tmp_path / "db",
            mapping(H[1], H[3]), mapping(H[4], H[5]), mapping("spaced text", H[5]), mapping(H[6], "bad"),
            row(H[2], H[9], db.NAIVE_TIME, outhash_siginfo="of then", PN="zlib"),
            row(H[4], H[9], "2024-01-01 00:00:00"), row(H[7], H[9], "2023-01-01 00:00:00"),
        )  # fmt: skip
        (report,) = live_import(server.address, path)
        assert report["mappings"] == {"new": 1, "known": 0, "conflicts": 1, "left_out": 2}
        assert report["conflicts"] == [
            {"kind": "mapping", "method": METHOD, "taskhash": H[1], "kept": H[1], "dropped": H[3]}
        ]
        assert report["rows"] == {"new": 2, "known": 0, "older": 1, "left_out": 0}
        found = client.get_taskhash(METHOD, H[2], True)
        assert found is not None
        assert (found["outhash_siginfo"], found["PN"]) == ("of then", "zlib")
        assert from_iso(found["created"]) == from_iso(db.NAIVE_TIME)
        oldest = client.get_outhash(METHOD, H[9], H[0])
        assert oldest is not None
        assert oldest["taskhash"] == H[4]
        unmapped = client.get_outhash(METHOD, H[9], H[0], with_unihash=False)
        assert unmapped is not None
        assert unmapped["taskhash"] == H[7]
        assert client.report_unihash(H[8], METHOD, H[9], H[8])["unihash"] == H[5]
        (again,) = live_import(server.address, path)
        assert again["rows"] == {"new": 0, "known": 3, "older": 0, "left_out": 0}
    server.stop()
    assert cli.main(["verify", "--data", str(tmp_path / "data")]) == 0


def test_what_was_unknown_a_moment_ago_is_known(live_import: Live, tmp_path: Path, start_server: Start) -> None:
    server = start_server(*IN_MEMORY)
    with create_client(server.address) as client:
        for _ in range(3):
            assert client.get_unihash_batch([(METHOD, H[1])]) == [None]
        live_import(server.address, write(tmp_path / "db", mapping(H[1], H[2])))
        assert client.get_unihash_batch([(METHOD, H[1])]) == [H[2]]


def test_an_imported_row_that_was_skipped_counts(live_import: Live, tmp_path: Path, start_server: Start) -> None:
    """Reports walked past many rows without a mapping; an import gives one of these a mapping."""
    server = start_server(*IN_MEMORY)
    unmapped = write(tmp_path / "a.db", *[row(hash_of("task", n), H[9], f"2020-01-01 00:00:{n:02}") for n in range(40)])
    live_import(server.address, unmapped)
    with create_client(server.address) as client:
        assert client.report_unihash(H[1], METHOD, H[9], H[1])["unihash"] == H[1]
        live_import(server.address, write(tmp_path / "b.db", mapping(hash_of("task", 20), H[2])))
        assert client.report_unihash(H[3], METHOD, H[9], H[3])["unihash"] == H[2]


def test_users(live_import: Live, tmp_path: Path, start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "db", mapping(H[1], H[2]), user("joe", db.stock_token("secret"), "@read @fly"),
        user("admin", db.stock_token("x")), user("odd", "form"), db.mark("monday"),
    )  # fmt: skip
    server = start_server(*IN_MEMORY, environment=ADMIN)
    (report,) = live_import(server.address, path, status=1)
    assert "3 users were left out, for the server does not let this client add users" in live_import.err
    assert "--login USER, who has @user-admin" in live_import.err
    assert report["mappings"]["new"] == 1
    live_import(server.address, path, "--no-users")
    assert report["users"]["left_out"] == 3
    assert "not allowed to access permissions(s) @user-admin; log in as one who may" in report["left_out"][0]
    monkeypatch.setenv("SHARDHASH_PASSWORD", "pw")
    (report,) = live_import(server.address, path, "--login", "admin")
    assert report["users"] == {"new": 1, "known": 0, "conflicts": 1, "left_out": 1}
    assert report["mappings"]["known"] == 1
    (report,) = live_import(server.address, path, "--login", "admin")
    assert report["users"] == {"new": 0, "known": 1, "conflicts": 1, "left_out": 1}
    with create_client(server.address, "joe", "secret") as client:
        assert client.get_user() == {"username": "joe", "permissions": ["@read"]}
        assert client.get_unihash(METHOD, H[1]) == H[2]
    monkeypatch.delenv("SHARDHASH_PASSWORD")
    live_import(server.address, path, "--login", "admin", status=1)
    assert "--login without a token" in live_import.err


def test_refusals(live_import: Live, tmp_path: Path, start_server: Start, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "db", mapping(H[1], H[2]))
    server = start_server(*IN_MEMORY, binds=["127.0.0.1:0,anon=@read", "127.0.0.1:0,read-only"])
    live_import(server.addresses[0], path, status=1)
    assert "not allowed to access permissions(s) @db-admin" in live_import.err
    live_import(server.addresses[1], path, status=1)
    live_import("127.0.0.1:1", path, status=1)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["import", str(path), "--address", "127.0.0.1:1", "--data", str(tmp_path)])
    assert exit_.value.code == 2
    assert "--data and --address are both given" in capsys.readouterr().err


def test_two_imports_and_reports_at_one_time(tmp_path: Path, start_server: Start) -> None:
    """Whatever comes between, the oldest row of each outhash gives the unihash in the end, and all verifies."""
    old = db.write_many(tmp_path / "old.db", 600)
    server = start_server("--data", str(tmp_path / "data"), "--workers", "2")

    def import_once(_: int) -> int:
        return cli.main(["import", str(old), "--address", server.address, "--json"])

    def report(start: int) -> None:
        with create_client(server.address) as client:
            for n in range(start, 600, 4):
                client.report_unihash(hash_of("task", n), METHOD, hash_of("out", n // 2), hash_of("uni", n // 2))

    with ThreadPoolExecutor(6) as pool:
        imports, reports = pool.map(import_once, range(2)), pool.map(report, range(4))
        assert list(imports) == [0, 0]
        list(reports)
    server.stop()
    assert cli.main(["verify", "--data", str(tmp_path / "data")]) == 0
    created = {json.loads(fact)[2]: json.loads(fact)[4] for fact in facts(FS, tmp_path / "data") if b'"row"' in fact}
    assert len(created) == 600
    for n in range(600):
        assert to_iso(created[hash_of("task", n)]) == f"2025-06-01T10:00:00.{n:06}+00:00"


@pytest.mark.parametrize("old", ["shardhash", "stock"])
def test_the_live_move(live_import: Live, tmp_path: Path, start_server: Start, old: str) -> None:
    """In front of the old server; builds go on; import closes the gap; the old server is switched off; and back."""
    path = db.write_many(tmp_path / "old.db", 300, siginfo=100)
    if old == "stock" and not os.environ.get("BITBAKE_DIR"):
        pytest.skip("BITBAKE_DIR names no checkout of BitBake")
    tasks = [hash_of("task", n) for n in range(300)]
    expected = [hash_of("uni", n // 2) if n % 3 else None for n in range(300)]
    with ExitStack() as stack:
        if old == "stock":
            upstream = stack.enter_context(stock_server(path))
        else:
            assert cli.main(["import", str(path), "--data", str(tmp_path / "as-old")]) == 0
            upstream = start_server("--data", str(tmp_path / "as-old")).address
        front = start_server("--data", str(tmp_path / "new"), "--upstream", upstream)
        with create_client(front.address) as client:
            assert client.get_unihash_batch([(METHOD, task) for task in tasks[:100]]) == expected[:100]
            # A task that only the old server knows, and a new one with an output that it knows.
            assert client.report_unihash(tasks[200], METHOD, hash_of("out", 100), H[1])["unihash"] == expected[200]
            assert client.report_unihash(H[2], METHOD, hash_of("out", 110), H[2])["unihash"] == hash_of("uni", 110)
            (report,) = live_import(front.address, path)
            assert report["mappings"]["conflicts"] == 0
            assert sum(report["rows"].values()) == 300
            assert report["rows"]["older"] == 1
    front.stop()
    alone = start_server("--data", str(tmp_path / "new"))
    with create_client(alone.address) as client:
        assert client.get_unihash_batch([(METHOD, task) for task in tasks]) == expected
        found = client.get_outhash(METHOD, hash_of("out", 100), H[0])
        assert found is not None
        assert (found["taskhash"], found["outhash_siginfo"][:10]) == (tasks[200], "siginfo of")
        (again,) = live_import(alone.address, path)
        assert (again["mappings"]["new"], again["rows"]["new"], again["rows"]["older"]) == (0, 0, 0)
        assert cli.main(["backup", str(tmp_path / "backup"), "--data", str(tmp_path / "new")]) == 0
    # Back to the old server with what came meanwhile.
    assert cli.main(["export", str(tmp_path / "back.db"), "--data", str(tmp_path / "backup")]) == 0
    if old == "stock":
        with stock_server(tmp_path / "back.db") as address, create_client(address) as client:
            assert client.get_unihash_batch([(METHOD, task) for task in [*tasks, H[2]]]) == [
                *expected,
                hash_of("uni", 110),
            ]


def test_a_request_of_rows_has_no_more_values_than_servers_take() -> None:
    """The last one of a batch may be the one with many."""
    plain, odd = {"outhash_siginfo": "," * 40}, {"outhash_siginfo": "," * 15_000}
    batches = list(in_batches([*[plain] * 380, odd, *[plain] * 300, odd, odd], weight_of, live.ROWS_AT_ONCE))
    assert sum(map(len, batches)) == 683
    for some in batches:
        check_values(orjson.dumps(some), ServerLimits().values)
