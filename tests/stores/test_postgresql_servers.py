"""Servers on a PostgreSQL database: what clients see, and what two servers on one database see of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardhash.client import Client, InvokeError, create_client
from shardhash.stores.postgresql import schema
from tests import test_report_order as order
from tests.player import CONFORMANCE, Player
from tests.servers import ServerProcess, run_shardhash
from tests.stores.postgresql_server import PASSWORD, PostgresqlServer
from tests.test_transcripts import ADMIN, SCENARIOS, bind, kinds_of

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"


@pytest.fixture(scope="session")
def migrated(postgresql: PostgresqlServer) -> Callable[[], str]:
    """Makes databases with tables; each call gives the URL of one."""
    first = postgresql.create_database()
    done = run_shardhash("migrate", SHARDHASH_STORE=first)
    assert done.returncode == 0, done.stderr
    return lambda: postgresql.create_database(like=first)


@pytest.mark.parametrize("transport", ["tcp", "unix", "ws"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_transcript(
    scenario: str,
    transport: str,
    start_server: Callable[..., ServerProcess],
    migrated: Callable[[], str],
    tmp_path: Path,
) -> None:
    kinds = kinds_of(scenario)
    addresses = {}
    if kinds & {"plain", "readonly"}:
        binds = [bind(transport, tmp_path, "plain"), bind(transport, tmp_path, "readonly") + ",read-only"]
        server = start_server(binds=binds, environment={"SHARDHASH_STORE": migrated()})
        addresses = {"plain": server.addresses[0], "readonly": server.addresses[1]}
    if "auth" in kinds:
        binds = [bind(transport, tmp_path, "auth")]
        addresses["auth"] = start_server(*ADMIN, binds=binds, environment={"SHARDHASH_STORE": migrated()}).address
    await Player(addresses).play(CONFORMANCE / f"{scenario}.jsonl")


class TwoServers:
    """Their addresses, one after the other, as `test_report_order` takes those of one server."""

    def __init__(self, *servers: ServerProcess) -> None:
        self.addresses = [server.address for server in servers]


@pytest.fixture(scope="module")
def order_server(migrated: Callable[[], str]) -> Iterator[TwoServers]:
    environment = {"SHARDHASH_STORE": migrated()}
    with (
        ServerProcess(binds=["ws://127.0.0.1:0"], environment=environment) as one,
        ServerProcess(binds=["127.0.0.1:0"], environment=environment) as other,
    ):
        yield TwoServers(one, other)


runner = order.runner
clients = order.clients
test_concurrent_reports_have_an_order_over_two_servers = order.test_concurrent_reports_have_an_order
test_hundreds_that_share_an_outhash_get_one_unihash = order.test_hundreds_that_share_an_outhash_get_one_unihash
test_the_same_report_from_all_at_once_is_stored_once = order.test_the_same_report_from_all_at_once_is_stored_once


def test_what_one_server_stored_the_other_serves_and_both_have_gone_on_with(order_server: TwoServers) -> None:
    with create_client(order_server.addresses[0]) as one, create_client(order_server.addresses[1]) as other:
        one.report_unihash("b1" * 32, METHOD, "b2" * 32, "b3" * 32)
        assert other.get_unihash(METHOD, "b1" * 32) == "b3" * 32
        assert other.report_unihash("b4" * 32, METHOD, "b2" * 32, "b5" * 32)["unihash"] == "b3" * 32
        assert one.unihash_exists("b5" * 32) is False
        assert other.remove({"unihash": "b3" * 32})["count"] == 2
        assert one.get_unihash(METHOD, "b4" * 32) is None
        one.gc_mark("m", {"unihash": "b3" * 32})
        assert other.gc_status()["mark"] == "m"
        other.gc_sweep("m")
        assert one.gc_status()["mark"] is None


def test_a_change_of_users_reaches_the_other_server(
    migrated: Callable[[], str], start_server: Callable[..., ServerProcess]
) -> None:
    environment = {"SHARDHASH_STORE": migrated()}
    one, other = (start_server(*ADMIN, binds=["ws://127.0.0.1:0"], environment=environment) for _ in range(2))
    with create_client(one.address, username="admin", password="password") as admin:
        users = {name: admin.new_user(name, ["@read"])["token"] for name in ("ann", "bob", "eve")}
        clients = {name: create_client(other.address, username=name, password=token) for name, token in users.items()}
        for client in clients.values():
            assert client.get_unihash(METHOD, "c1" * 32) is None
        admin.set_user_perms("ann", ["@report"])
        admin.delete_user("bob")
        admin.refresh_token("eve")
        for client in clients.values():
            refused(client)
            client.close()
        with create_client(other.address, username="ann", password=users["ann"]) as client:
            assert client.get_user() == {"username": "ann", "permissions": ["@report"]}


def refused(client: Client) -> None:
    """The first request after a change that was acknowledged at another server is refused."""
    with pytest.raises((InvokeError, ConnectionError)):
        client.get_unihash(METHOD, "c1" * 32)


def test_the_last_use_and_the_end_of_a_token_are_known_to_both_servers(
    migrated: Callable[[], str], start_server: Callable[..., ServerProcess]
) -> None:
    environment = {"SHARDHASH_STORE": migrated()}
    one, two = [start_server(*ADMIN, binds=["ws://127.0.0.1:0"], environment=environment) for _ in range(2)]
    with create_client(one.address, username="admin", password="password") as admin:
        token = admin.new_user("ann", ["@read"], 3600)["token"]
    with create_client(two.address, username="ann", password=token) as ann:
        assert ann.ping()
        with create_client(one.address, username="admin", password="password") as admin:
            seen = {user["username"]: user for user in admin.list_users()}["ann"]
            while seen["used"] is None:  # the other server stores it beside the login
                seen = {user["username"]: user for user in admin.list_users()}["ann"]
            assert seen["expires"] > seen["used"]
            assert admin.refresh_token("ann", 0)["expires"] is None
        with create_client(two.address, username="admin", password="password") as admin:
            seen = {user["username"]: user for user in admin.list_users()}["ann"]
            assert (seen["expires"], seen["used"]) == (None, None)


def test_users_who_change_each_other_at_two_servers_wait_for_nobody(
    migrated: Callable[[], str], start_server: Callable[..., ServerProcess]
) -> None:
    """Each change waits until the other server has followed it."""
    environment = {"SHARDHASH_STORE": migrated(), "SHARDHASH_ANSWER_LEASE": "60s"}
    servers = [start_server(*ADMIN, binds=["ws://127.0.0.1:0"], environment=environment) for _ in range(2)]
    admins = [create_client(server.address, username="admin", password="password") for server in servers]
    names = ["ann", "bob"]
    watched = []
    for name in names:
        token = admins[0].new_user(name, ["@read"])["token"]
        watched += [create_client(one.address, username=name, password=token) for one in servers]

    def change(admin: Client, name: str) -> None:
        for number in range(30):
            admin.set_user_perms(name, ["@read", "@report"] if number % 2 else ["@report"])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(change, *pair) for pair in zip(admins, names, strict=True)]:
            done.result(60)
    for client in (*watched, *admins):
        assert client.get_unihash(METHOD, "c1" * 32) is None
        client.close()


# ---------------------------------------------------------------------------------------------- set-up and errors


def test_a_server_needs_the_tables_of_its_version(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_database()
    started = run_shardhash("serve", "--bind", "127.0.0.1:0", SHARDHASH_STORE=url)
    assert started.returncode == 1
    assert "has no tables. Make them with: shardhash migrate" in started.stderr
    done = run_shardhash("migrate", "--store", url)
    assert (done.returncode, done.stdout) == (0, f"the tables have version {schema.VERSION} now (before: none)\n")
    assert "already; nothing was changed" in run_shardhash("migrate", "--store", url).stdout
    postgresql.execute("update shardhash.version set version = 99", url.rpartition("/")[2])
    for command in (["migrate"], ["serve", "--bind", "127.0.0.1:0"]):
        refused = run_shardhash(*command, SHARDHASH_STORE=url)
        assert refused.returncode == 1
        assert f"has version 99 of the tables, and this shardhash knows {schema.VERSION}" in refused.stderr
        assert PASSWORD not in refused.stderr + refused.stdout


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://me:s3cret-word@host/db", "names no database: write postgresql://USER@HOST/DATABASE"),
        ("postgresql://me:s3cret-word@127.0.0.1:1/db", "cannot be reached"),
        ("postgresql://127.0.0.1:1/db?user=me&password=s3cret-word", "cannot be reached"),
        ("postgresql://me:s3cret-word@host/db?nonsense=1", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_without_its_password(
    url: str, told: str, postgresql: PostgresqlServer
) -> None:
    for command in (["migrate"], ["serve", "--bind", "127.0.0.1:0"]):
        refused = run_shardhash(*command, "--store", url)
        assert refused.returncode == 1
        assert told in refused.stderr
        assert PASSWORD not in refused.stderr + refused.stdout


def test_a_wrong_password_is_told_without_any(postgresql: PostgresqlServer) -> None:
    refused = run_shardhash(
        "serve", "--bind", "127.0.0.1:0", "--store", postgresql.url().replace(PASSWORD, "another-word")
    )
    assert refused.returncode == 1
    assert "password authentication failed" in refused.stderr
    assert "another-word" not in refused.stderr


def test_tables_of_the_first_version_are_brought_up(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(schema, "VERSION", 1)
        assert asyncio.run(schema.migrate(url)) == (0, 1)
    refused = run_shardhash("serve", "--bind", "127.0.0.1:0", SHARDHASH_STORE=url)
    assert f"has version 1 of the tables, and this shardhash needs {schema.VERSION}" in refused.stderr
    assert f"have version {schema.VERSION} now (before: 1)" in run_shardhash("migrate", "--store", url).stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--read-replica", "postgresql://host/db", "--memory"], "there is no database; give --store"),
        (["--store", "postgresql://host/db", "--answer-lease", "2m"], "--answer-lease is at most 60s"),
    ],
)
def test_settings_of_a_database_that_make_no_sense(flags: list[str], told: str) -> None:
    refused = run_shardhash("serve", *flags)
    assert refused.returncode == 2
    assert told in refused.stderr


@pytest.mark.parametrize("flags", [["--memory"], ["--data", "d"], ["--workers", "2"]])
def test_a_database_and_a_folder_are_not_both_served(flags: list[str]) -> None:
    refused = run_shardhash("serve", *flags, "--store", "postgresql://host/db")
    assert refused.returncode == 2
    assert f"{flags[0]} says otherwise" in refused.stderr
