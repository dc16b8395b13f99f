"""Several coordinators of a server: what one acknowledges holds at all of them, and one that dies costs nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardhash.client import Client, InvokeError, create_async_client, create_client
from tests.coordinators import (
    SEVERAL,
    InTurn,
    connect_async_to_each,
    connect_to_each,
    connections_of,
    followers,
    wait_for_others,
)
from tests.http.conftest import basic, get, http_of
from tests.servers import IN_MEMORY, ROOT, ServerProcess
from tests.test_crash import Acknowledged, check, more_reports, report_until_cut

pytestmark = pytest.mark.once

METHOD = "m"
ADMIN = ("--admin-user", "admin", "--admin-password", "password")
ANYONE = ("--anon-perms", "@read @report @db-admin")


@pytest.fixture(scope="module")
def several() -> Iterator[ServerProcess]:
    with ServerProcess(*IN_MEMORY, *SEVERAL, *ADMIN, *ANYONE, binds=["127.0.0.1:0", "ws://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture(scope="module")
def clients(several: ServerProcess) -> Iterator[list[Client]]:
    some = connect_to_each(several, several.address)
    yield some
    for client in some:
        client.close()


def logged_in(server: ServerProcess, username: str, token: str) -> list[Client]:
    some = connect_to_each(server, server.addresses[1])
    for client in some:
        client.auth(username, token)
    return some


def permissions_of(client: Client) -> list[str]:
    """What the user of a connection may do."""
    found = client.get_user()
    assert found is not None
    permissions: list[str] = sorted(found["permissions"])
    return permissions


def hash_of(number: int) -> str:
    return f"{number:064x}"


# ------------------------------------------------------------------------------------------------------ the cache


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["report", "remove", "clean", "mark", "sweep"]), st.integers(0, 3)
        ),
        max_size=12,
    )
)
def test_what_one_acknowledges_is_answered_by_all(clients: list[Client], steps: list[tuple[int, str, int]]) -> None:
    """Each has the mappings at hand when another takes them away."""
    method = secrets.token_hex(8)
    held: dict[str, str] = {}
    marked: set[str] = set()
    keys = [(method, hash_of(number)) for number in range(4)]
    for who, what, number in steps:
        client, taskhash = clients[who], hash_of(number)
        match what:
            case "report":
                unihash = secrets.token_hex(32)
                answer = client.report_unihash(taskhash, method, secrets.token_hex(32), unihash)["unihash"]
                assert answer == held.setdefault(taskhash, unihash)
            case "remove":
                client.remove({"method": method, "taskhash": taskhash})
                held.pop(taskhash, None)
                marked.discard(taskhash)
            case "clean":
                client.clean_unused(0)
            case "mark":
                client.gc_mark("now", {"method": method, "taskhash": taskhash})
                marked |= {taskhash} & held.keys()
            case "sweep":
                client.gc_mark("now", {"method": method, "taskhash": taskhash})
                client.gc_sweep("now")
                marked |= {taskhash} & held.keys()
        if what == "sweep":
            held = {key: held[key] for key in held if key in marked or key == taskhash}
            marked.clear()
        state = [clients[n].get_unihash_batch(keys) for n in range(3) for _ in range(2)]
        for found in state:
            assert found == state[0]
        if what in ("report", "remove") and not marked:
            assert state[0] == [held.get(key) for _, key in keys]
        held = {key: unihash for (_, key), unihash in zip(keys, state[0], strict=True) if unihash is not None}
        assert clients[who].unihash_exists_batch(held.values()) == [True] * len(held)


async def test_no_lookup_after_a_removal_finds_what_went(several: ServerProcess) -> None:
    """While all others look it up, again and again."""
    clients = await connect_async_to_each(several, several.address)
    for number in range(30):
        method = f"gone-{number}"
        await clients[0].report_unihash(hash_of(1), method, hash_of(2), hash_of(3))
        stop = asyncio.Event()

        async def look(client: Any, method: str = method, stop: asyncio.Event = stop) -> None:
            while not stop.is_set():
                await client.get_unihash(method, hash_of(1))

        lookers = [asyncio.create_task(look(client)) for client in clients[1:]]
        await clients[0].get_unihash(method, hash_of(1))
        await clients[0].remove({"method": method})
        stop.set()
        await asyncio.gather(*lookers)
        assert [await client.get_unihash(method, hash_of(1)) for client in clients] == [None] * 3
    for client in clients:
        await client.close()


def test_a_follower_that_stands_still_holds_up_no_removal(several: ServerProcess) -> None:
    """It is killed, since it might answer by what went."""
    with create_client(several.address) as client:
        client.report_unihash(hash_of(1), "still", hash_of(2), hash_of(3))
        some = followers(several)
        some[0].suspend()
        began = time.monotonic()
        home = connect_to_each(several, several.address, coordinators=2)
        assert home[0].remove({"method": "still"})["count"] == 2
        assert time.monotonic() - began < 60
        for one in home:
            one.close()
        wait_for_others(several, [some[0]])


def test_a_quarantine_bars_outhashes_everywhere(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY, *SEVERAL, *ANYONE)
    clients = connect_to_each(server, server.address)
    clients[0].report_unihash(hash_of(1), METHOD, hash_of(2), hash_of(3), {"PN": "bad"})
    begun = clients[1].quarantine({"PN": "bad"})
    assert [client.get_unihash(METHOD, hash_of(1)) for client in clients] == [None] * 3
    for number, client in enumerate(clients, 10):
        answer = client.report_unihash(hash_of(number), METHOD, hash_of(2), hash_of(number + 90))
        assert answer["unihash"] == hash_of(number + 90)
    clients[2].release(begun["name"])
    assert {client.get_unihash(METHOD, hash_of(1)) for client in clients} == {hash_of(3)}
    for client in clients:
        client.close()


# ---------------------------------------------------------------------------------------------------------- users


def test_rights_change_at_all_coordinators_at_once(several: ServerProcess) -> None:
    admins = logged_in(several, "admin", "password")
    token = admins[0].new_user("builder", ["@read", "@report"])["token"]
    builders = logged_in(several, "builder", token)
    for admin in admins:
        admin.set_user_perms("builder", ["@read"])
        for builder in builders:
            assert permissions_of(builder) == ["@read"]
        admin.set_user_perms("builder", ["@read", "@report"])
        assert {tuple(permissions_of(builder)) for builder in builders} == {("@read", "@report")}
    admins[2].delete_user("builder")
    for builder in builders:
        with pytest.raises(InvokeError, match="Unable to authenticate"):
            permissions_of(builder)
    for client in (*admins, *builders):
        client.close()


def test_a_new_token_closes_the_other_connections_everywhere(several: ServerProcess) -> None:
    admins = logged_in(several, "admin", "password")
    token = admins[1].new_user("renewed", ["@read"])["token"]
    for place in range(3):
        users = logged_in(several, "renewed", token)
        token = users[place].refresh_token()["token"]
        assert permissions_of(users[place]) == ["@read"]
        for user in users[:place] + users[place + 1 :]:
            with pytest.raises(InvokeError, match="Unable to authenticate"):
                permissions_of(user)
        for user in users:
            user.close()
    admins[2].new_user("one", ["@read"])
    with pytest.raises(InvokeError, match="Cannot create new user"):
        admins[0].new_user("one", ["@read"])
    for client in admins:
        client.close()


# ---------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("victim", ["follower", "worker"])
def test_a_process_that_is_killed_loses_nothing_acknowledged(tmp_path: Path, victim: str) -> None:
    """Under load, at all coordinators; its locks end, and its clients are answered by others."""

    async def rounds(server: ServerProcess) -> None:
        seen = Acknowledged()
        for _ in range(4):
            outhashes = [secrets.token_hex(32) for _ in range(4)]
            stop = asyncio.Event()
            clients = [await create_async_client(server.addresses[n % 2]) for n in range(12)]
            tasks = [
                asyncio.create_task(report_until_cut(client, seen, outhashes, (1, 7, 40)[n % 3], stop))
                for n, client in enumerate(clients)
            ]
            await more_reports(seen, 150, tasks)
            killed = [secrets.choice(followers(server) if victim == "follower" else server.children("--shard"))]
            killed[0].kill()
            await more_reports(seen, 150, tasks)
            stop.set()
            await asyncio.gather(*tasks)
            for client in clients:
                await client.close()
            await asyncio.to_thread(wait_for_others, server, killed)
            await check(server.address, seen)

    data = ("--data", str(tmp_path / "data"), "--workers", "2", "--log", "WARNING")
    with ServerProcess(*data, *SEVERAL, binds=["127.0.0.1:0", "ws://127.0.0.1:0"]) as server:
        asyncio.run(rounds(server))


def test_no_follower_outlives_the_server(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(*IN_MEMORY, *SEVERAL)
    some = followers(server)
    assert len(some) == 2
    server.kill()
    gone, alive = psutil.wait_procs(some, timeout=30)
    assert len(gone) == 2
    assert not alive


def test_a_stop_reaches_all(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Whoever is connected where is answered, and sees the end."""
    server = start_server(*IN_MEMORY, *SEVERAL, binds=["127.0.0.1:0", f"unix://{tmp_path}/server.sock"])
    clients = connect_to_each(server, server.address)
    with create_client(server.addresses[1]) as local:
        local.report_unihash(hash_of(1), METHOD, hash_of(2), hash_of(3))
    assert [client.get_unihash(METHOD, hash_of(1)) for client in clients] == [hash_of(3)] * 3
    some = followers(server)
    assert server.stop(signal.SIGTERM) == 0
    assert not psutil.wait_procs(some, timeout=30)[1]
    assert not (tmp_path / "server.sock").exists()
    for client in clients:
        client.close()


def may_administer(client: Client) -> bool:
    try:
        client.clean_unused(3600)
    except InvokeError:
        return False
    return True


def test_settings_that_are_read_again_reach_all(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    config = tmp_path / "shardhash.toml"
    config.write_text('anon-perms = "@read"\n')
    server = start_server("--config", str(config), *IN_MEMORY, *SEVERAL)
    until = time.monotonic() + 60
    for permissions, due in (("@read", [False] * 3), ("@read @db-admin", [True] * 3)):
        config.write_text(f'anon-perms = "{permissions}"\n')
        server.process.send_signal(signal.SIGHUP)
        found: list[bool] = []
        while found != due:
            assert time.monotonic() < until, found
            clients = connect_to_each(server, server.address)
            found = [may_administer(client) for client in clients]
            for client in clients:
                client.close()
    killed = followers(server)
    for one in killed:
        one.kill()
    wait_for_others(server, killed)
    clients = connect_to_each(server, server.address)
    assert all(may_administer(client) for client in clients), "a coordinator that began later has the first settings"
    for client in clients:
        client.close()


def test_several_are_the_default_on_many_cores(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Of a data directory whose number of workers stays as it was."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.sched_getaffinity = lambda _: set(range(8))\n")
    many = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "SHARDHASH_COORDINATORS": ""}
    data = ("--data", str(tmp_path / "data"))
    binds = ["127.0.0.1:0", f"unix://{tmp_path}/server.sock", "ws://127.0.0.1:0"]
    with ServerProcess(*data, "--workers", "1", binds=binds, environment=many) as before:
        assert len(followers(before)) == 0, "page and metrics are at ws://"
        with create_client(before.address) as client:
            client.report_unihash(hash_of(1), METHOD, hash_of(2), hash_of(3))
    server = start_server(*data, "--http", "127.0.0.1:0", binds=binds[:2], environment=many, listening=3)
    assert (len(followers(server)), len(server.children("--shard"))) == (2, 1)
    clients = connect_to_each(server, server.address)
    with create_client(server.addresses[1]) as client:
        assert client.get_unihash(METHOD, hash_of(1)) == hash_of(3)
    assert [client.get_unihash(METHOD, hash_of(1)) for client in clients] == [hash_of(3)] * 3
    assert get(f"{server.addresses[2]}/readyz").status == 200
    for client in clients:
        client.close()


# -------------------------------------------------------------------------------------------------------- figures


def test_figures_of_all_add_up(start_server: Callable[..., ServerProcess]) -> None:
    arguments = (*IN_MEMORY, *SEVERAL, *ADMIN, *ANYONE, "--http", "127.0.0.1:0")
    server = start_server(*arguments, binds=["127.0.0.1:0", "ws://127.0.0.1:0"], listening=3)
    clients = connect_to_each(server, server.address)
    clients[0].report_unihash(hash_of(1), METHOD, hash_of(2), hash_of(3))
    for client in clients:
        client.get_unihash(METHOD, hash_of(1))
    text = get(f"{server.addresses[2]}/metrics", Authorization=basic("admin", "password")).text
    assert 'shardhash_lookups_total{result="hit"} 3.0' in text
    assert 'shardhash_reports_total{result="stored"} 1.0' in text
    assert 'process_start_time_seconds{process="coordinator-1"}' in text
    assert 'process_start_time_seconds{process="coordinator-2"}' in text
    totals = [client.get_stats()["requests"]["num"] for client in clients]
    assert totals == sorted(totals)
    assert totals[0] >= 4
    clients[2].reset_stats()
    assert clients[1].get_stats()["requests"]["num"] <= 2
    some = followers(server)
    some[0].kill()
    wait_for_others(server, [some[0]])
    text = get(f"{server.addresses[2]}/metrics", Authorization=basic("admin", "password")).text
    assert 'shardhash_reports_total{result="stored"} 1.0' in text
    assert get(http_of(server.addresses[1]) + "/metrics").status == 421
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["--upstream", "ws://127.0.0.1:1"], "an upstream"),
        (["--store", "postgresql://127.0.0.1/x"], "a database"),
    ],
)
def test_what_does_not_go_together_is_refused(others: list[str], words: str) -> None:
    with pytest.raises(AssertionError, match=f"several coordinators and {words}"):
        ServerProcess(*SEVERAL, *others, *([] if "--store" in others else IN_MEMORY))


def test_connections_that_come_one_by_one_are_spread(several: ServerProcess) -> None:
    before = connections_of(several)
    some = [create_client(several.address) for _ in range(30)]
    added = connections_of(several)
    added.subtract(before)
    for client in some:
        client.close()
    assert sum(added.values()) == 30
    assert min(added.values()) >= 5, "10 each, unless one was busy"


def test_who_stands_still_keeps_no_connection_waiting(several: ServerProcess) -> None:
    """It has fewer connections than the others in the end; those give way for a moment only."""
    stopped = followers(several)[0]
    before = connections_of(several)[stopped.pid]
    stopped.suspend()
    some = [create_client(several.address) for _ in range(12)]
    assert [client.ping() for client in some] == [{"alive": True}] * 12
    assert connections_of(several)[stopped.pid] == before
    stopped.resume()
    for client in some:
        client.close()


def test_connections_in_turn_reach_all(several: ServerProcess) -> None:
    in_turn = InTurn(connect_to_each(several, several.address))
    assert [in_turn.get_unihash("nothing", hash_of(1)) for _ in range(6)] == [None] * 6
    in_turn.close()


async def test_strangers_lock_nobody_out_who_logged_in_at_another_coordinator(
    start_server: Callable[..., ServerProcess],
) -> None:
    arguments = ("--admin-user", "admin", "--admin-password", "password", "--limit", "user_logins=2")
    server = start_server(*IN_MEMORY, "--coordinators", "2", *arguments)
    clients = await connect_async_to_each(server, server.address, 2)
    await clients[1].auth("admin", "password")  # at the follower, which tells the server

    async def guess(number: int) -> None:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(f"127.0.0.{2 + number}", 0))
        writer.write(b'OEHASHEQUIV 1.1\n\n{"auth": {"username": "admin", "token": "guess"}}\n')
        assert b"invoke-error" in await reader.readline()
        writer.close()

    await asyncio.gather(*map(guess, range(12)))
    assert (await clients[0].auth("admin", "password"))["username"] == "admin"
    for client in clients:
        await client.close()
