"""``shardhash gc`` against real servers: what stays, what goes, and that it comes back.

The same holds of a server with one coordinator and with three. Its clients, one for each coordinator, take turns.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shardhash.client.blocking import Client
from shardhash.errors import InvokeError
from tests.collecting import DATABASE, Place, at_random, places
from tests.coordinators import followers
from tests.servers import ROOT, ServerProcess
from tests.stores.postgresql_server import find_postgresql

pytestmark = pytest.mark.once

METHOD = "oe.sstatesig.OEOuthashBasic"


def digits(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 256):064x}"[::-1]


def name_of(number: int) -> str:
    return f"sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{digits(number)}_package.tar.zst"


def gc(address: str, *arguments: str, status: int = 0, stdin: str = "") -> str:
    """What ``shardhash gc`` says; its errors, if it ends with this status."""
    done = subprocess.run(
        [sys.executable, "-m", "shardhash", "gc", "--address", address, *arguments],
        input=stdin, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def import_row(client: Client, row: Mapping[str, Any]) -> None:
    """As `shardhash import --address` does."""
    columns = ("method", "taskhash", "outhash", "created", "owner", "PN", "PV", "PR", "task", "outhash_siginfo")
    client.import_batch([], [{name: row[name] for name in columns}])


def report(client: Client, number: int, outhash: int | None = None, **extra: str) -> None:
    client.report_unihash(digits(number), METHOD, digits(10_000 + (outhash or number)), digits(number), extra)


def found_by(client: Client, *numbers: int) -> set[int]:
    found = client.get_unihash_batch([(METHOD, digits(number)) for number in numbers])
    return {number for number, unihash in zip(numbers, found, strict=True) if unihash is not None}


def known(place: Place, *numbers: int) -> set[int]:
    """What all say, twice."""
    first, *others = [found_by(client, *numbers) for client in [*place.clients, *place.clients]]
    assert all(other == first for other in others)
    return first


def rows(place: Place) -> list[Mapping[str, Any]]:
    found = place.clients[-1].find({"method": METHOD}, 100, True)["rows"]
    return sorted(({**row, "asked": None} for row in found), key=json.dumps)


@pytest.fixture(scope="module", params=places())
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Place.of(request.param, request.getfixturevalue, tmp_path_factory.mktemp("data")) as place:
        yield place


def fill(client: Client) -> None:
    """Tasks 1 to 10; 3 shares the output of 1 and so has its unihash, 4 has two outputs, 99 came without a row."""
    for number in range(1, 11):
        report(client, number, 1 if number == 3 else None, PN=f"recipe{number % 2}", outhash_siginfo="text\n" * 9)
    report(client, 4, 400)
    client.report_unihash_equiv(digits(99), METHOD, digits(98))


@pytest.fixture
def server(place: Place) -> Place:
    """It holds what `fill` stores, and nothing else."""
    place.clients[-1].remove({"method": METHOD})
    fill(place.clients[0])
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """It holds 1, 2 and the siginfo of 5."""
    folder = tmp_path / "sstate" / "ab"
    folder.mkdir(parents=True)
    for name in (name_of(1), name_of(1) + ".siginfo", name_of(2), name_of(5) + ".siginfo"):
        (folder / name).touch()
    return tmp_path / "sstate"


def test_what_the_cache_holds_stays_and_all_else_comes_back(server: Place, cache: Path, tmp_path: Path) -> None:
    undo = tmp_path / "undo.jsonl"
    before = rows(server)
    shown = gc(server.address, "--sstate", str(cache), "--grace", "0")
    assert "8 mappings with 8 rows would go" in shown
    assert "3 mappings stay" in shown
    assert "4 mappings          5 rows  recipe0" in shown
    assert "nothing is done: add --yes" in shown
    assert rows(server) == before
    done = gc(server.address, "--sstate", str(cache), "--grace", "0", "--yes", "--undo", str(undo))
    assert "8 mappings and 8 rows are removed" in done
    assert known(server, *range(1, 11), 99) == {1, 2, 3}
    assert len(rows(server)) == 3
    assert "nothing is to be removed" in gc(server.address, "--sstate", str(cache), "--grace", "0", "--yes")
    assert "8 rows and 8 mappings are back" in client_undo(server.address, undo)
    assert rows(server) == before
    assert known(server, *range(1, 11), 99) == {*range(1, 11), 99}
    client = server.clients[-1]  # the index of outhashes is as before, too
    client.report_unihash(digits(50), METHOD, digits(10_000 + 5), digits(50))
    assert client.get_unihash(METHOD, digits(50)) == digits(5)


def test_a_listing_on_standard_input_keeps_what_it_names(server: Place) -> None:
    listing = f"2026-11-28 10:00:00 1234 sstate/ab/{name_of(7)}\n2026-11-28 10:00:00 9 sstate/ab/{name_of(8)}.siginfo\n"
    report_ = json.loads(gc(server.address, "--sstate", "-", "--grace", "0", "--json", stdin=listing))
    assert (report_["objects"], report_["mappings"], report_["kept"]) == (1, 10, 1)
    assert report_["removed"] is None
    many = "".join(f"{name_of(number)}\n" for number in range(5, 7005))
    report_ = json.loads(gc(server.address, "--sstate", "-", "--grace", "0", "--json", stdin=many))
    assert (report_["objects"], report_["kept"]) == (7000, 7)


def test_what_is_used_lately_stays(server: Place, cache: Path) -> None:
    """All was reported today; without grace, --unused alone says so."""
    assert "nothing is to be removed" in gc(server.address, "--sstate", str(cache))
    assert "nothing is to be removed" in gc(server.address, "--unused", "90d", "--grace", "0")


def test_a_cache_that_holds_nothing_removes_nothing(server: Place, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, words in (("empty", "names no object of a cache"), ("nowhere", f"gc: there is no {tmp_path}/nowhere\n")):
        assert words in gc(server.address, "--sstate", str(tmp_path / place), "--yes", status=1)
    undo = tmp_path / "there"
    undo.touch()
    for path, words in ((undo, "not there yet"), (Path("/dev/null"), "keeps nothing")):
        arguments = ("--sstate", str(cache), "--grace", "0", "--yes", "--undo", str(path))
        assert words in gc(server.address, *arguments, status=1)
    assert known(server, *range(1, 11), 99) == {*range(1, 11), 99}
    assert "say what stays" in gc(server.address, status=2)


def test_it_needs_the_rights(tmp_path: Path, cache: Path) -> None:
    with ServerProcess("--data", str(tmp_path / "data"), "--anon-perms", "@read @report") as server:
        assert "refused" in gc(server.address, "--sstate", str(cache), status=1)


def step(place: Place, work: Callable[[Client, str], None]) -> None:
    """Do something within a collection that keeps nothing by itself, by any of those who can make one."""
    client = secrets.choice(place.clients)
    name = client.collect("begin")["collection"]
    work(client, name)
    client.collect("end", name)


def all_of(client: Client, name: str) -> list[dict[str, str]]:
    page = client.collect("show", name)
    tasks = page["tasks"]
    while page["next"] is not None:
        page = client.collect("show", name, after=page["next"])
        tasks += page["tasks"]
    return [{column: task[column] for column in ("method", "taskhash", "unihash")} for task in tasks]


def used(when: str, stage: str, place: Place) -> None:
    """At this stage one is looked up, one reported again, one new, one of a new method, and one asked for by name."""
    if when == stage:
        first, *_, last = place.clients
        assert found_by(last, 2) == {2}
        report(last, 4)  # again
        report(first, 60)  # new
        first.report_unihash(digits(61), when.replace(" ", "-"), digits(61), digits(61))
        last.report_unihash_equiv(digits(62), "newer." + when.replace(" ", "-"), digits(62))
        assert first.unihash_exists(digits(6))
        assert last.get_taskhash(METHOD, digits(7), True) is not None
        assert first.get_outhash(METHOD, digits(10_000 + 8), digits(1)) is not None


@pytest.mark.parametrize("when", ["before choose", "before show", "before take"])
def test_what_is_asked_for_or_reported_meanwhile_stays(server: Place, when: str) -> None:
    """Answers at hand count, too, those of other coordinators as well."""
    assert known(server, 1, 2, 3) == {1, 2, 3}

    def work(client: Client, name: str) -> None:
        used(when, "before choose", server)
        client.collect("choose", name)
        used(when, "before show", server)
        mappings = all_of(client, name)
        used(when, "before take", server)
        client.collect("take", name, mappings=mappings)

    step(server, work)
    assert known(server, *range(1, 11), 60, 99) == {2, 4, 6, 7, 8, 60}
    for method, number in ((when.replace(" ", "-"), 61), ("newer." + when.replace(" ", "-"), 62)):
        assert server.clients[0].get_unihash(method, digits(number)) == digits(number)
        server.clients[0].remove({"method": method})


def test_rows_that_are_imported_meanwhile_stay(server: Place) -> None:
    """No undo file has them."""
    row = {"outhash": digits(777), "created": 1_700_000_000_000_000}

    def work(client: Client, name: str) -> None:
        client.collect("choose", name)
        mappings = all_of(client, name)
        import_row(server.clients[0], {**server.clients[0].find({"taskhash": digits(5)}, 1, True)["rows"][0], **row})
        client.collect("take", name, mappings=mappings)

    step(server, work)
    assert server.clients[-1].get_outhash(METHOD, digits(777), digits(1)) is not None


def test_users_lose_nothing_while_much_is_collected(server: Place) -> None:
    """Whatever one was told after the begin is still there at the end, and all say the same of everything."""
    asyncio.run(at_random(server, METHOD))


@pytest.mark.soak
def test_users_lose_nothing_in_many_collections(server: Place) -> None:
    asyncio.run(at_random(server, METHOD, rounds=40))


DIES = """
import os, signal, sys
from shardhash.client.blocking import Client
asked, (step, *arguments) = Client.collect, sys.argv[1:]
def collect(self, name, *rest, **more):
    answer = asked(self, name, *rest, **more)
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
Client.collect = collect
from shardhash.client import gc
gc.TAKEN_AT_ONCE = 3
sys.exit(gc.main(arguments))
"""


@pytest.mark.parametrize("dies_at", ["begin", "keep", "choose", "show", "take"])
def test_a_client_that_is_killed_loses_nothing(server: Place, cache: Path, tmp_path: Path, dies_at: str) -> None:
    """All that is gone is in its undo file, and another one may begin."""
    before, undo = rows(server), tmp_path / "undo.jsonl"
    arguments = ["--address", server.address, "--sstate", str(cache), "--grace", "0", "--yes", "--undo", str(undo)]
    done = subprocess.run([sys.executable, "-c", DIES, dies_at, *arguments], timeout=60, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    left = known(server, *range(1, 11), 99)
    assert left >= {1, 2, 3}
    assert len(left) == (8 if dies_at == "take" else 11)
    name = server.begin()
    server.clients[0].collect("end", name)
    if len(left) < 11:
        assert "3 mappings are back" in client_undo(server.address, undo)
    assert rows(server) == before


def client_undo(address: str, undo: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "shardhash", "client", "--address", address, "undo", str(undo)],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    ).stdout  # fmt: skip


def test_a_collection_goes_on_over_another_connection(server: Place) -> None:
    """Whoever it is that knows its name, and by whichever coordinator of the server."""
    name = server.clients[0].collect("begin")["collection"]
    if len(server.servers) > 1:
        with pytest.raises(InvokeError, match="is over"):
            server.clients[-1].collect("choose", name)
        server.connect_again()
    same = server.clients[0 if len(server.servers) > 1 else -1]
    same.collect("choose", name)
    server.clients[0].collect("take", name, mappings=all_of(server.clients[0], name))
    assert same.collect("end", name)["mappings"] == 11


def test_one_at_a_time(server: Place) -> None:
    for one, other in ((0, -1), (-1, 0)):
        name = server.clients[one].collect("begin")["collection"]
        with pytest.raises(InvokeError, match="under way"):
            server.clients[other].collect("begin")
        server.connect_again()  # a refusal ends a connection
        server.clients[one].collect("end", name)
        name = server.clients[other].collect("begin")["collection"]
        assert server.clients[other].collect("end", name) == {"mappings": 0, "rows": 0}


def take_all(client: Client, name: str) -> None:
    client.collect("choose", name)
    client.collect("take", name, mappings=all_of(client, name))


def test_killed_in_the_middle_it_can_be_undone_and_done_again(tmp_path: Path) -> None:
    """The server dies between two takes; a client's next step is refused in words."""
    arguments = ("--data", str(tmp_path / "data"), "--workers", "2")
    with ServerProcess(*arguments) as server, Place([server]) as place:
        fill(place.clients[0])
        before = rows(place)
        name = place.begin()
        place.clients[-1].collect("choose", name)
        mappings = all_of(place.clients[-1], name)
        place.clients[-1].collect("take", name, mappings=mappings[:5])
        server.kill()
    with ServerProcess(*arguments) as again, Place([again]) as place:
        left = {digits(number) for number in known(place, *range(1, 11), 99)}
        assert left == {mapping["taskhash"] for mapping in mappings[5:]}
        assert all(row in before for row in rows(place) if row["unihash"] is not None)
        with pytest.raises(InvokeError, match="is over"):
            place.clients[-1].collect("take", name, mappings=mappings[5:])
        step(place, take_all)
        assert known(place, *range(1, 11), 99) == set()


@pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here")
def test_a_server_on_a_database_that_is_killed_leaves_the_rest_to_the_other(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with Place.of(DATABASE, request.getfixturevalue, tmp_path) as place:
        fill(place.clients[0])
        before = rows(place)
        name = place.clients[0].collect("begin")["collection"]
        place.clients[0].collect("choose", name)
        mappings = all_of(place.clients[0], name)
        place.clients[0].collect("take", name, mappings=mappings[:5])
        place.servers.pop(0).kill()
        place.connect_again()
        left = {digits(number) for number in known(place, *range(1, 11), 99)}
        assert left == {mapping["taskhash"] for mapping in mappings[5:]}
        assert all(row in before for row in rows(place))
        name = place.begin()
        take_all(place.clients[0], name)
        assert known(place, *range(1, 11), 99) == set()


def test_a_coordinator_that_dies_ends_no_collection_but_its_own(tmp_path: Path) -> None:
    with ServerProcess("--memory", "--workers", "2", "--coordinators", "3") as server, Place([server]) as place:
        fill(place.clients[0])
        name = place.clients[0].collect("begin")["collection"]
        assert found_by(place.clients[1], 2) == {2}
        for one in followers(server):
            one.kill()
        place.clients[0].collect("choose", name)
        place.clients[0].collect("take", name, mappings=all_of(place.clients[0], name))
        place.clients[0].collect("end", name)
        place.connect_again()
        assert known(place, *range(1, 11), 99) == {2}
        name = place.clients[1].collect("begin")["collection"]
        for one in followers(server):
            one.kill()
        name = place.clients[0].collect("begin")["collection"]
        place.clients[0].collect("end", name)
