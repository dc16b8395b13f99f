"""``shardhash gc`` against real servers: what stays, what goes, and that it comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import create_client
from shardhash.client.blocking import Client
from shardhash.errors import InvokeError
from tests.servers import ROOT, ServerProcess

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


def report(client: Client, number: int, outhash: int | None = None, **extra: str) -> None:
    client.report_unihash(digits(number), METHOD, digits(10_000 + (outhash or number)), digits(number), extra)


def known(address: str, *numbers: int) -> set[int]:
    with create_client(address) as client:
        found = client.get_unihash_batch([(METHOD, digits(number)) for number in numbers])
    return {number for number, unihash in zip(numbers, found, strict=True) if unihash is not None}


def rows(address: str) -> list[Mapping[str, Any]]:
    with create_client(address) as client:
        found = client.find({"method": METHOD}, 100, True)["rows"]
    return sorted(({**row, "asked": None} for row in found), key=json.dumps)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Tasks 1 to 10; 3 shares the output of 1 and so has its unihash, 4 has two outputs, 99 came without a row."""
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "2") as server:
        with create_client(server.address) as client:
            for number in range(1, 11):
                report(
                    client, number, 1 if number == 3 else None, PN=f"recipe{number % 2}", outhash_siginfo="text\n" * 9
                )
            report(client, 4, 400)
            client.report_unihash_equiv(digits(99), METHOD, digits(98))
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """It holds 1, 2 and the siginfo of 5."""
    folder = tmp_path / "sstate" / "ab"
    folder.mkdir(parents=True)
    for name in (name_of(1), name_of(1) + ".siginfo", name_of(2), name_of(5) + ".siginfo"):
        (folder / name).touch()
    return tmp_path / "sstate"


def test_what_the_cache_holds_stays_and_all_else_comes_back(server: ServerProcess, cache: Path, tmp_path: Path) -> None:
    undo = tmp_path / "undo.jsonl"
    before = rows(server.address)
    shown = gc(server.address, "--sstate", str(cache), "--grace", "0")
    assert "8 mappings with 8 rows would go" in shown
    assert "3 mappings stay" in shown
    assert "4 mappings          5 rows  recipe0" in shown
    assert "nothing is done: add --yes" in shown
    assert rows(server.address) == before
    done = gc(server.address, "--sstate", str(cache), "--grace", "0", "--yes", "--undo", str(undo))
    assert "8 mappings and 8 rows are removed" in done
    assert known(server.address, *range(1, 11), 99) == {1, 2, 3}
    assert len(rows(server.address)) == 3
    assert "nothing is to be removed" in gc(server.address, "--sstate", str(cache), "--grace", "0", "--yes")
    again = subprocess.run(
        [sys.executable, "-m", "shardhash", "client", "--address", server.address, "undo", str(undo)],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "8 rows and 8 mappings are back" in again.stdout
    assert rows(server.address) == before
    assert known(server.address, *range(1, 11), 99) == {*range(1, 11), 99}
    with create_client(server.address) as client:  # the index of outhashes is as before, too
        client.report_unihash(digits(50), METHOD, digits(10_000 + 5), digits(50))
        assert client.get_unihash(METHOD, digits(50)) == digits(5)


def test_a_listing_on_standard_input_keeps_what_it_names(server: ServerProcess) -> None:
    listing = f"2026-11-28 10:00:00 1234 sstate/ab/{name_of(7)}\n2026-11-28 10:00:00 9 sstate/ab/{name_of(8)}.siginfo\n"
    report_ = json.loads(gc(server.address, "--sstate", "-", "--grace", "0", "--json", stdin=listing))
    assert (report_["objects"], report_["mappings"], report_["kept"]) == (1, 10, 1)
    assert report_["removed"] is None


def test_what_is_used_lately_stays(server: ServerProcess, cache: Path) -> None:
    """All was reported today; without grace, --unused alone says so."""
    assert "nothing is to be removed" in gc(server.address, "--sstate", str(cache))
    assert "nothing is to be removed" in gc(server.address, "--unused", "90d", "--grace", "0")


def test_a_cache_that_holds_nothing_removes_nothing(server: ServerProcess, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        assert str(tmp_path / place) in gc(server.address, "--sstate", str(tmp_path / place), "--yes", status=1)
    undo = tmp_path / "there"
    undo.touch()
    for path, words in ((undo, "not there yet"), (Path("/dev/null"), "keeps nothing")):
        arguments = ("--sstate", str(cache), "--grace", "0", "--yes", "--undo", str(path))
        assert words in gc(server.address, *arguments, status=1)
    assert known(server.address, *range(1, 11), 99) == {*range(1, 11), 99}
    assert "say what stays" in gc(server.address, status=2)


def test_it_needs_the_rights(tmp_path: Path, cache: Path) -> None:
    with ServerProcess("--data", str(tmp_path / "data"), "--anon-perms", "@read @report") as server:
        assert "refused" in gc(server.address, "--sstate", str(cache), status=1)


def step(address: str, work: Callable[[Client, str], None]) -> None:
    """Do something within a collection that keeps nothing by itself."""
    with create_client(address) as client:
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


@pytest.mark.parametrize("when", ["before choose", "before show", "before take"])
def test_what_is_asked_for_or_reported_meanwhile_stays(server: ServerProcess, when: str) -> None:
    """Answers at hand in the coordinator count, too."""
    known(server.address, 1, 2, 3)
    known(server.address, 1, 2, 3)

    def use() -> None:
        assert known(server.address, 2) == {2}
        with create_client(server.address) as other:
            report(other, 4)  # again
            report(other, 60)  # new
            assert other.unihash_exists(digits(6))

    def work(client: Client, name: str) -> None:
        if when == "before choose":
            use()
        client.collect("choose", name)
        if when == "before show":
            use()
        mappings = all_of(client, name)
        if when == "before take":
            use()
        client.collect("take", name, mappings=mappings)

    step(server.address, work)
    assert known(server.address, *range(1, 11), 60, 99) == {2, 4, 6, 60}


def test_users_lose_nothing_while_much_is_collected(tmp_path: Path) -> None:
    """Builders look up and report all the time; whatever one was told after the begin is still there at the end."""
    count = 3000
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "2", "--sync", "off") as server:
        with create_client(server.address) as client:
            for number in range(count):
                client.report_unihash_equiv(digits(number), METHOD, digits(number))
        told: set[int] = set()
        stop = threading.Event()

        def build(first: int) -> None:
            with create_client(server.address) as client:
                number = first
                while not stop.is_set():
                    number = (number * 7 + 13) % count
                    if client.get_unihash(METHOD, digits(number)) is not None:
                        told.add(number)
                    new = count + first * 100_000 + len(told)
                    client.report_unihash(digits(new), METHOD, digits(new), digits(new))
                    told.add(new)

        with create_client(server.address) as client:
            name = client.collect("begin")["collection"]
            builders = [threading.Thread(target=build, args=(first,)) for first in (1, 2)]
            for builder in builders:
                builder.start()
            client.collect("choose", name)
            mappings = all_of(client, name)
            for start in range(0, len(mappings), 100):
                client.collect("take", name, mappings=mappings[start : start + 100])
            stop.set()
            for builder in builders:
                builder.join()
            gone = client.collect("end", name)["mappings"]
        assert gone > 0
        assert known(server.address, *told) == told


def test_killed_in_the_middle_it_can_be_undone_and_done_again(server: ServerProcess, tmp_path: Path) -> None:
    """The server dies between two takes; a client's next step is refused in words."""
    before = rows(server.address)
    with create_client(server.address) as client:
        name = client.collect("begin")["collection"]
        client.collect("choose", name)
        mappings = all_of(client, name)
        client.collect("take", name, mappings=mappings[:5])
    server.kill()
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "2") as again:
        left = {digits(number) for number in known(again.address, *range(1, 11), 99)}
        assert left == {mapping["taskhash"] for mapping in mappings[5:]}
        assert all(row in before for row in rows(again.address) if row["unihash"] is not None)
        with create_client(again.address) as client, pytest.raises(InvokeError, match="is over"):
            client.collect("take", name, mappings=mappings[5:])
        step(again.address, take_all)
        assert known(again.address, *range(1, 11), 99) == set()


def take_all(client: Client, name: str) -> None:
    client.collect("choose", name)
    client.collect("take", name, mappings=all_of(client, name))


def test_one_at_a_time(server: ServerProcess) -> None:
    with create_client(server.address) as first, create_client(server.address) as second:
        name = first.collect("begin")["collection"]
        with pytest.raises(InvokeError, match="under way"):
            second.collect("begin")
        first.collect("end", name)
    with create_client(server.address) as second:
        name = second.collect("begin")["collection"]
        assert second.collect("end", name) == {"mappings": 0, "rows": 0}
