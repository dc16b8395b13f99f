"""Settings, and how flags and variables become them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from shardhash.base.cores import coordinators_for, default_workers, usable_cores
from shardhash.coordinator.bind import Bind, TlsFiles
from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, ANONYMOUS_FAR, check
from shardhash.errors import ConfigError, InvokeError
from shardhash.link.worker_options import WorkerPlace, parse_options
from shardhash.server.cli import read_settings
from shardhash.server.settings import Settings
from shardhash.server.start import worker_options
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import Manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.wire.address import Address, parse_address, parse_bind
from shardhash.wire.commands import COMMANDS

NOTHING: dict[str, str] = {}
DEFAULT = "@read @report @db-admin"


def settings(*binds: Bind, **others: object) -> Settings:
    return Settings(binds or (Bind(Address("tcp", "127.0.0.1", 1)),), 2, None, **others)  # type: ignore[arg-type]


def refused(arguments: list[str], environment: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about settings that are wrong."""
    with pytest.raises(SystemExit) as exit_:
        read_settings(arguments, environment)
    assert exit_.value.code == 2
    return capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- what goes together


def test_an_upstream_needs_an_address_that_stores() -> None:
    upstream = UpstreamSettings(parse_address("hash.example.com:1"))
    reader, writer = Bind(Address("tcp", "", 1), read_only=True), Bind(Address("tcp", "", 2))
    with pytest.raises(ConfigError, match="an upstream and read-only do not go together"):
        settings(reader, upstream=upstream)
    assert settings(reader, writer, upstream=upstream).upstream == upstream


@pytest.mark.parametrize(("encrypted", "plain"), [("wss://:8443/ws", "ws://:8443/ws"), ("tls://h:8443", "h:8443")])
def test_no_tls_without_a_certificate(encrypted: str, plain: str) -> None:
    bind = Bind(parse_bind(encrypted)[0])
    with pytest.raises(ConfigError, match=rf"{encrypted} without a cert.*--tls-cert.* bind {plain} .*TLS proxy"):
        settings(bind)
    assert settings(bind, tls=TlsFiles(Path("c"))).binds == (bind,)


def test_an_outbox_in_memory_is_told_of() -> None:
    upstream = UpstreamSettings(parse_address("hash.example.com:1"), forward=True)
    assert "lost at the end (--memory)" in settings(upstream=upstream).warnings()[0]


def test_a_certificate_that_nothing_uses_is_told_of() -> None:
    assert "nothing is encrypted" in settings(tls=TlsFiles(Path("c"))).warnings()[0]


@pytest.mark.parametrize("name", ["@all", "@user-admin"])
def test_nobody_is_made_owner(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be given {name}"):
        Bind(Address("tcp", "", 1), anon_perms=frozenset((name, "@read")))


def test_secrets_are_not_shown() -> None:
    shown = repr(
        settings(
            admin_user="a", admin_password="secret", upstream=UpstreamSettings(Address("tcp", "h", 1), "u", "hush")
        )
    )
    assert "secret" not in shown
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("place", "local"),
    [
        ("unix:///a", True),
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("ws://localhost:1", True),
        (":1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("[fe80::1%eth0]:1", False),
        ("10.0.0.1:1", False),
        ("hash.example.com:1", False),
    ],
)
def test_local_addresses(place: str, local: bool) -> None:
    assert Bind(parse_bind(place)[0]).local is local
    warnings = settings(Bind(parse_bind(place)[0])).warnings()
    assert len(warnings) == (0 if local else 1)
    assert all("@db-admin" in warning and "DELETE" in warning for warning in warnings)


def test_no_warning_without_danger() -> None:
    address = Address("tcp", "0.0.0.0", 1)
    readers = [Bind(address, read_only=True), Bind(address, anon_perms=frozenset(("@read",)))]
    assert settings(*readers).warnings() == []


def test_a_warning_of_reports_by_strangers() -> None:
    (warning,) = settings(Bind(Address("tcp", "0.0.0.0", 1), anon_perms=frozenset(("@read", "@report")))).warnings()
    assert "@report" in warning
    assert "DELETE" not in warning


# --------------------------------------------------------------------------------------------- flags and variables


def test_defaults() -> None:
    found = read_settings([], NOTHING)
    bind = Bind(Address("unix", path="./hashserve.sock"))
    coordinators = coordinators_for(usable_cores())
    assert found == Settings((bind,), default_workers(), Path("hashserv.shardhash"), coordinators=coordinators)


def test_variables_of_the_reference(tmp_path: Path) -> None:
    found = read_settings(
        [],
        {
            "HASHSERVER_BIND": ":8686 ws://:8484,read-only,anon=@read",
            "HASHSERVER_DB": "/var/lib/hashserv.db",
            "HASHSERVER_LOG_LEVEL": "debug",
            "HASHSERVER_UPSTREAM": "wss://hash.example.com/ws",
            "HASHSERVER_READ_ONLY": "0",
            "HASHSERVER_ANON_PERMS": "@read,@report",
            "HASHSERVER_ADMIN_USER": "admin",
            "HASHSERVER_ADMIN_PASSWORD": "secret",
        },
    )
    assert found.binds == (
        Bind(Address("tcp", "", 8686), False, frozenset(("@read", "@report"))),
        Bind(Address("ws", "", 8484), True, frozenset(("@read",))),
    )
    assert found.data == Path("/var/lib/hashserv.db.shardhash")
    assert found.log_level == "DEBUG"
    assert found.upstream == UpstreamSettings(Address("wss", "hash.example.com", 443, "/ws"))
    assert (found.admin_user, found.admin_password) == ("admin", "secret")


def test_flags(tmp_path: Path) -> None:
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("0123\n")
    password.write_text("p w\r\n")
    arguments = (
        "--bind :1 --bind :2,anon=@none --workers 3 --data d --sync interval --sync-interval 2s --snapshot-interval 10m"
        " --snapshot-bytes 1M --keep-snapshots 4 --log warning --shard-timeout 5 --max-message 2M --upstream h:1"
        " --upstream-timeout 2 --upstream-misses 5m --upstream ws://g --forward --outbox-size 2M"
        f" --upstream-user u --upstream-token-file {token} --admin-user a --admin-password-file {password}"
        " --tls-cert c --tls-key k"
    )
    found = read_settings(arguments.split(), {"SHARDHASH_DATA": "other", "SHARDHASH_BIND": "wss://:1"})
    assert [bind.anon_perms for bind in found.binds] == [ANONYMOUS_FAR, frozenset()]
    assert (found.workers, found.data, found.log_level, found.shard_timeout) == (3, Path("d"), "WARNING", 5)
    assert found.limits.message == 2 << 20
    others = (Address("ws", "g", 80),)
    assert found.upstream == UpstreamSettings(Address("tcp", "h", 1), "u", "0123", 2, 300, others, True, 2 << 20)
    assert found.admin_password == "p w"
    assert found.tls == TlsFiles(Path("c"), Path("k"))
    command_line = worker_options(found, Manifest(3, 7)).arguments()
    place, told = parse_options(["--shard", "1", "--listen-fd", "9", *command_line])
    assert place == WorkerPlace(1, 9)
    assert (told.shards, told.data, told.generation) == (3, Path("d"), 7)
    assert (told.sync, told.sync_interval) == ("interval", 2)
    assert (told.snapshot_interval, told.snapshot_bytes, told.keep_snapshots) == (600, 1 << 20, 4)


def test_workers_in_memory_are_told_no_folder() -> None:
    found = read_settings(["--memory"], NOTHING)
    assert found.data is None
    told = worker_options(found, None)
    assert told.data is None
    assert parse_options(["--shard", "0", "--listen-fd", "0", *told.arguments()])[1] == told


@pytest.mark.parametrize(
    ("bind", "arguments", "granted"),
    [
        ("127.0.0.1:1", "", ANONYMOUS_DEFAULT),
        ("unix://a", "", ANONYMOUS_DEFAULT),
        (":1", "", ANONYMOUS_FAR),
        ("ws://10.0.0.1:1", "", ANONYMOUS_FAR),
        (":1,anon=@read+@report+@db-admin", "", ANONYMOUS_DEFAULT),
        (":1", "--anon-perms @read,@report,@db-admin", ANONYMOUS_DEFAULT),
    ],
)
def test_strangers_delete_nothing_unless_told_otherwise(bind: str, arguments: str, granted: frozenset[str]) -> None:
    (found,) = read_settings(["--bind", bind, *arguments.split()], NOTHING).binds
    assert found.anon_perms == granted
    assert found.cautious == (granted == ANONYMOUS_FAR)
    if found.cautious:
        (warning,) = read_settings(["--bind", bind], NOTHING).warnings()
        assert "anonymous users get @read @report there, without the @db-admin that the stock server gives" in warning
        assert (
            0 < warning.index(f"--bind '{found.address},anon=@read'") < warning.index("anon=@db-admin+@read+@report'")
        )
        with pytest.raises(InvokeError, match=r"anon=@db-admin\+@read\+@report'"):
            check(found.anonymous, COMMANDS["remove"])
        with pytest.raises(InvokeError, match=r"@user-admin$"):
            check(found.anonymous, COMMANDS["get-all-users"])


def test_a_refusal_of_the_page_names_its_option() -> None:
    found = read_settings(["--http", "10.0.0.1:1"], NOTHING).http
    assert found is not None
    with pytest.raises(InvokeError, match=r"by --http '10\.0\.0\.1:1,anon="):
        check(found.anonymous, COMMANDS["remove"])


def test_read_only_holds_for_every_address() -> None:
    found = read_settings(["--bind", ":1", "--bind", "ws://:2"], {"HASHSERVER_READ_ONLY": "1"})
    assert [bind.read_only for bind in found.binds] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ("--anon-perms @all", {}, "--anon-perms: anonymous users cannot be given @all"),
        ("", {"HASHSERVER_ANON_PERMS": "@read @user-admin"}, "HASHSERVER_ANON_PERMS: anonymous users cannot be given"),
        ("--bind :1,anon=@all", {}, "--bind: anonymous users cannot be given @all"),
        ("--bind :1,anon=@fly", {}, "unknown permission @fly"),
        ("", {"HASHSERVER_BIND": ":1 wss://:2"}, "cannot listen on wss://:2"),
        ("--bind nowhere", {}, "--bind: address 'nowhere'"),
        ("--read-only --upstream h:1", {}, "an upstream and read-only do not go together"),
        ("--bind :1,read-only", {"HASHSERVER_UPSTREAM": "h:1"}, "an upstream and read-only do not go together"),
        ("--upstream :1", {}, "--upstream: address ':1' has no host"),
        ("--upstream-user u", {}, "no upstream (--upstream)"),
        ("--upstream h:1 --upstream-user u", {}, "an upstream user and token go together"),
        ("--upstream h:1 --upstream g:1 --upstream h:1", {}, "an upstream is given twice"),
        ("--forward", {}, "--forward sends reports on to an upstream, but there is none; give --upstream ADDRESS"),
        ("--forward --upstream h:1 --read-only", {}, "an upstream and read-only do not go together"),
        ("--forward --upstream h:1 --coordinators 2", {}, "several coordinators and an upstream do not go together"),
        ("--forward --upstream h:1 --store postgresql://h/d", {}, "--forward keeps an outbox in the data directory"),
        ("--forward --upstream h:1 --outbox-size much", {}, "--outbox-size: 'much' is not a size"),
        ("--tls-key k", {}, "no certificate (--tls-cert)"),
        ("--memory --data d", {}, "--memory keeps nothing"),
        ("--memory", {"SHARDHASH_DATA": "d"}, "--memory keeps nothing"),
        ("--workers 0", {}, "--workers: '0' is not a whole number"),
        ("--sync never", {}, "--sync: 'never' is none of always, interval, off"),
        ("--log loud", {}, "--log: 'loud' is none of"),
        (
            "--admin-user a",
            {},
            "--admin-user names an administrator without a password; give one by --admin-password-f",
        ),
        ("", {"HASHSERVER_ADMIN_USER": "a"}, "HASHSERVER_ADMIN_USER names an administrator without a password"),
        (
            "--admin-password p",
            {},
            "--admin-password gives the password of an administrator without a name; give it by",
        ),
        ("", {"HASHSERVER_ADMIN_PASSWORD": "p"}, "--admin-password (HASHSERVER_ADMIN_PASSWORD) gives the password of"),
        ("--admin-password-file f", {}, "--admin-password-file gives the password of an administrator without a name"),
        ("--limit connections", {}, "--limit: connections needs a value: connections=NUMBER"),
        ("", {"SHARDHASH_LIMIT": "memory="}, "SHARDHASH_LIMIT: memory needs a value: memory=SIZE"),
        ("--limit conections", {}, "'conections' is not a limit; write NAME=VALUE"),
        (
            "",
            {"HASHSERVER_BIND": "127.0.0.1:1,127.0.0.1:2"},
            "rule '127.0.0.1:2': the rules are read-only and anon=PERMISSIONS; several addresses are separated by",
        ),
        (
            "--admin-user a --admin-password-file /nowhere",
            {},
            "--admin-password-file: cannot read /nowhere: No such file or directory\n",
        ),
        ("--admin-user a --admin-password-file /dev/null", {}, "first line of /dev/null is empty"),
        ("--admin-user a --admin-password p", {"SHARDHASH_ADMIN_PASSWORD_FILE": "f"}, "one is enough"),
        ("--admin-pass p", {}, "there is no option --admin-pass; did you mean --admin-password?"),
    ],
)
def test_wrong_settings(
    arguments: str, environment: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(arguments.split(), environment, capsys)


def test_workers_are_those_of_the_directory_unless_a_number_is_given(tmp_path: Path) -> None:
    fs = OsFileSystem()
    assert read_settings(f"--data {tmp_path}".split(), NOTHING).workers == default_workers()
    prepare_directory(fs, tmp_path, 5, lambda _: None)
    assert read_settings(f"--data {tmp_path}".split(), NOTHING).workers == 5
    assert read_settings(f"--data {tmp_path} --workers 2".split(), NOTHING).workers == 2


# ------------------------------------------------------------------------------------------- the stock server's forms


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-b 0.0.0.0:8686 -d /var/lib/hashserv.db -l WARNING -r", {"binds": ["0.0.0.0:8686"], "log_level": "WARNING"}),
        (
            "--bind :8686 --database /srv/db.sqlite --log WARN",
            {"data": "/srv/db.sqlite.shardhash", "log_level": "WARNING"},
        ),
        ("-b ws://:8686 -l FATAL --reuseport", {"binds": ["ws://0.0.0.0:8686"], "log_level": "CRITICAL"}),
        ("-l NOTSET -d /d/hashserv.db --data /e", {"data": "/e", "log_level": "DEBUG"}),
        ("-u hash.example.com:8686 -b unix://./hashserve.sock", {"upstream": "hash.example.com:8686"}),
        ("--db-username me --db-password secret --memory", {"data": "None"}),
        ("-b [::]:8686 --anon-perms @read,@report", {"binds": ["[::]:8686"]}),
    ],
)
def test_command_lines_of_the_stock_server(line: str, expected: dict[str, object]) -> None:
    found = read_settings(line.split(), NOTHING)
    shown = {
        "binds": [str(bind.address).replace("ws://:", "ws://0.0.0.0:") for bind in found.binds],
        "data": str(found.data),
        "log_level": found.log_level,
        "upstream": str(found.upstream and found.upstream.address),
    }
    assert shown | expected == shown
    assert all(bind.read_only for bind in found.binds) == ("-r" in line.split())
    assert "secret" not in repr(found)


@pytest.mark.parametrize("text", ["", "  ", "@none"])
@pytest.mark.parametrize("variable", ["HASHSERVER_ANON_PERMS", "SHARDHASH_ANON_PERMS"])
def test_no_permissions_are_none(variable: str, text: str) -> None:
    """A variable that is set but empty means none to the stock server; a default here would open a closed door."""
    (bind,) = read_settings([], {variable: text}).binds
    assert bind.anon_perms == frozenset()


@pytest.mark.parametrize(
    "variable",
    ["BIND", "DB", "LOG_LEVEL", "UPSTREAM", "READ_ONLY", "ADMIN_USER", "ADMIN_PASSWORD", "DB_USERNAME", "DB_PASSWORD"],
)
def test_other_variables_that_are_empty_are_unset(variable: str) -> None:
    """Compose files pass all of them along."""
    assert read_settings([], {f"HASHSERVER_{variable}": ""}) == read_settings([], NOTHING)


def test_variables_that_nothing_reads_are_named() -> None:
    found = read_settings([], {"HASHSERVER_ANON_PERM": "@none", "SHARDHASH_PASSWORD": "x", "SHARDHASH_XYZZY": "1"})
    first, second = found.warnings()
    assert "HASHSERVER_ANON_PERM is set" in first
    assert "did you mean HASHSERVER_ANON_PERMS?" in first
    assert "SHARDHASH_XYZZY" in second
    assert "mean" not in second


@pytest.mark.parametrize("where", [["--memory"], ["--store", "postgresql://h/d"]])
def test_the_user_of_a_database_is_ignored_aloud(where: list[str]) -> None:
    environment = {"HASHSERVER_DB_PASSWORD": "s3cret"}
    (warning,) = read_settings([*where, "--db-username", "u"], environment).warnings()
    assert warning.startswith("--db-username and --db-password (HASHSERVER_DB_PASSWORD): ignored here")
    assert "the database of --store has its user in the URL" in warning


@pytest.mark.parametrize("given", [["--database"], ["-d"], []])
def test_a_database_server_is_refused_without_its_password(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql+asyncpg://hash:s3cret@db.example.com:5432/hashes"
    told = refused([*given, url] if given else [], {} if given else {"HASHSERVER_DB": url}, capsys)
    assert "s3cret" not in told
    assert "hash:***@db.example.com" in told
    assert "--data" in told


def test_a_database_of_the_stock_server_is_told_with_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "hashserv.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table unihashes_v3 (method text, taskhash text, unihash text, gc_mark text)")
        database.executemany("insert into unihashes_v3 values ('m', ?, 'u', '')", [(str(n),) for n in range(1200)])
        database.commit()
    (warning,) = read_settings([], {"HASHSERVER_DB": str(path)}).warnings()
    assert "1,200 rows in unihashes_v3" in warning
    assert f"stop this server and: shardhash import {path} --data {path}.shardhash" in warning
    path.write_text("no database")
    assert read_settings(["-d", str(path)], NOTHING).warnings() == []
