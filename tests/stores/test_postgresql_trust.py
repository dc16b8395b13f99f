"""Servers and their database: TLS that is checked, passwords that are right or wrong, and secrets that stay secret."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardhash.client import create_client
from shardhash.errors import InvokeError
from tests.certificates import Authority
from tests.servers import ServerProcess, run_shardhash
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer, find_postgresql
from tests.stores.test_postgresql_faults import CUT

M = "m"
pytestmark = [
    pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here"),
    pytest.mark.once,
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "database-ca")


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[PostgresqlServer]:
    """A database that takes nobody without TLS; its certificate is for db.test and 127.0.0.1."""
    certificate, key = authority.sign("db.test")
    with PostgresqlServer() as server:
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            target = server.data / name
            shutil.copy(source, target)
            target.chmod(0o600)
            shutil.chown(target, (server.data / "PG_VERSION").owner())
        server.execute("alter system set ssl = on")
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        server.execute("select pg_reload_conf()")
        yield server


def test_tls_is_checked_against_the_authority_and_the_name(
    encrypted: PostgresqlServer, authority: Authority, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    url = encrypted.create_database()
    checked = {"SHARDHASH_STORE": f"{url}?sslmode=verify-full", "PGSSLROOTCERT": str(authority.path)}
    done = run_shardhash("migrate", **checked)
    assert done.returncode == 0, done.stderr
    server = start_server(binds=["ws://127.0.0.1:0"], environment=checked)
    with create_client(server.address) as client:
        client.report_unihash("a" * 64, M, "b" * 64, "c" * 64)
        assert client.get_unihash(M, "a" * 64) == "c" * 64
    name = url.rpartition("/")[2]
    used = "select distinct s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid) where a.datname"
    assert encrypted.execute(f"{used} = '{name}' and a.application_name = 'shardhash'") == [(True,)]

    other = Authority(tmp_path, "other-ca")
    for changed, told in (
        ({"PGSSLROOTCERT": str(other.path)}, "certificate verify failed"),
        ({"PGSSLROOTCERT": str(tmp_path / "none.pem")}, "root certificate file"),
        ({"SHARDHASH_STORE": checked["SHARDHASH_STORE"].replace("127.0.0.1", "localhost")}, "does not match host name"),
        ({"SHARDHASH_STORE": f"{url}?sslmode=disable"}, "no pg_hba.conf entry"),
    ):
        refused = run_shardhash("serve", "--bind", "127.0.0.1:0", **checked | changed)
        assert refused.returncode == 1
        assert "cannot be reached" in refused.stderr
        assert told in refused.stderr
        assert PASSWORD not in refused.stderr + refused.stdout


def test_the_password_may_be_in_a_file(
    postgresql: PostgresqlServer, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    name = postgresql.create_database().rpartition("/")[2]
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{postgresql.port}:*:tester:{PASSWORD}\n")
    passwords.chmod(0o600)
    environment = {"SHARDHASH_STORE": postgresql.url(name, password=False), "PGPASSFILE": str(passwords)}
    assert run_shardhash("migrate", **environment).returncode == 0
    server = start_server(binds=["ws://127.0.0.1:0"], environment=environment)
    with create_client(server.address) as client:
        client.report_unihash("a" * 64, M, "b" * 64, "c" * 64)
    assert server.stop() == 0
    copied = run_shardhash("copy", environment["SHARDHASH_STORE"], str(tmp_path / "copy"), PGPASSFILE=str(passwords))
    assert "1 mappings, 1 outhash rows; read back" in copied.stdout
    passwords.chmod(0o644)
    refused = run_shardhash("serve", "--bind", "127.0.0.1:0", **environment)
    assert refused.returncode == 1
    assert "no password supplied" in refused.stderr


def test_a_password_that_changes_while_a_server_runs_is_told(
    postgresql: PostgresqlServer, start_server: Callable[..., ServerProcess]
) -> None:
    url = postgresql.create_database()
    assert run_shardhash("migrate", SHARDHASH_STORE=url).returncode == 0
    name = url.rpartition("/")[2]
    postgresql.execute("drop role if exists keeper")
    postgresql.execute("create role keeper login password 'first-word'")
    postgresql.execute("grant usage on schema shardhash to keeper", name)
    postgresql.execute("grant all on all tables in schema shardhash to keeper", name)
    server = start_server(
        "--shard-timeout",
        "1s",
        "--log",
        "DEBUG",
        binds=["ws://127.0.0.1:0"],
        environment={"SHARDHASH_STORE": url.replace(f"tester:{PASSWORD}", "keeper:first-word")},
    )
    with create_client(server.address) as client:
        client.report_unihash("a" * 64, M, "b" * 64, "c" * 64)
        postgresql.execute("alter role keeper password 'second-word'")
        postgresql.execute(CUT)
        with pytest.raises(InvokeError, match="cannot be reached now; the server's log says why"):
            client.report_unihash("d" * 64, M, "e" * 64, "f" * 64)
        seen = server.log.wait_for("password authentication failed")
        postgresql.execute("alter role keeper password 'first-word'")
        client.report_unihash("d" * 64, M, "e" * 64, "f" * 64)
    assert server.stop() == 0
    seen += server.log.read()
    assert "first-word" not in seen
    assert "Traceback" not in seen
    postgresql.execute("drop owned by keeper", name)


def test_no_password_is_shown_by_ps_or_config_or_a_log(
    postgresql: PostgresqlServer, start_server: Callable[..., ServerProcess]
) -> None:
    url = postgresql.create_database()
    assert run_shardhash("migrate", "--store", url).returncode == 0
    server = start_server("--store", url, "--read-replica", url, "--log", "DEBUG", binds=["ws://127.0.0.1:0"])
    shown = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"--bind" in shown
    assert PASSWORD.encode() not in shown
    with create_client(server.address) as client:
        client.report_unihash("a" * 64, M, "b" * 64, "c" * 64)
        postgresql.execute(CUT)
        assert client.get_unihash(M, "a" * 64) == "c" * 64
        client.remove({"method": M})
    assert server.stop() == 0
    told = run_shardhash("config", SHARDHASH_STORE=url, SHARDHASH_READ_REPLICA=url)
    assert told.returncode == 0
    assert PASSWORD not in told.stdout + told.stderr + server.log.read()
