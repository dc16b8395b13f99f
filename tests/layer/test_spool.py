"""Reports that wait in a file for their server."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shardhash_bitbake import spool as spool_module
from shardhash_bitbake.client import Client, report_fields
from shardhash_bitbake.spool import Spool
from tests.servers import ServerProcess

METHOD = "spooled"


def report(number: int, **extra: Any) -> dict[str, Any]:
    return report_fields(f"t{number}", METHOD, f"o{number}", f"{number:064x}", extra)


def taken(spool: Spool) -> list[dict[str, Any]]:
    """What a sender would get."""
    found: list[dict[str, Any]] = []
    spool.send(lambda reports: found.extend(map(dict, reports)))
    return found


def add_many(spool: Spool, first: int, count: int) -> None:
    for number in range(first, first + count):
        assert spool.add(report(number))


def test_reports_reach_the_server_later(shared_server: ServerProcess, tmp_path: Path) -> None:
    with Client(shared_server.address) as client:
        spool = Spool(tmp_path / "cache", shared_server.address)
        add_many(spool, 0, 200)
        assert client.get_unihash(METHOD, "t7") is None
        assert spool.send(client.report_batch) == 200
        assert client.get_unihash(METHOD, "t7") == f"{7:064x}"
        assert spool.send(client.report_batch) == 0


def test_failures_keep_the_reports(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    add_many(spool, 0, 3)

    def fail(reports: Sequence[object]) -> None:
        raise ConnectionError("down")

    for number in (3, 4):
        with pytest.raises(ConnectionError):
            spool.send(fail)
        add_many(spool, number, 1)
    assert [item["taskhash"] for item in taken(spool)] == ["t0", "t1", "t2", "t3", "t4"]
    assert taken(spool) == []


def test_a_report_at_which_the_server_closes_holds_up_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    add_many(spool, 0, 3 * spool_module.TOGETHER)
    stored: list[str] = []
    tried: list[int] = []

    def send(reports: Sequence[Mapping[str, Any]]) -> None:
        assert all("tries" not in one for one in reports)
        tried.append(len(reports))
        if "t5" in [one["taskhash"] for one in reports]:
            raise ConnectionError("cannot ask") from ConnectionResetError("closed")
        stored.extend(one["taskhash"] for one in reports)

    for _ in range(spool_module.MOST_TRIES):
        with pytest.raises(ConnectionError):
            spool.send(send)
    assert spool.send(send) == 0, "given up"
    assert sorted(stored) == sorted(f"t{number}" for number in range(300) if number != 5)
    assert tried == [100, 100, 100, 1, 1, 1, 1, 1, 1, *[1] * 94, 1, 1, 1]


def test_a_server_that_is_away_costs_no_try(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    add_many(spool, 0, 2 * spool_module.TOGETHER)
    stored: list[str] = []

    def send(reports: Sequence[Mapping[str, Any]]) -> None:
        if stored:
            raise ConnectionError("cannot ask") from ConnectionRefusedError()
        stored.extend(one["taskhash"] for one in reports)

    for _ in range(2 * spool_module.MOST_TRIES):
        with pytest.raises(ConnectionError):
            spool.send(send)
    assert len(taken(spool)) == spool_module.TOGETHER


def test_each_server_has_its_own(tmp_path: Path) -> None:
    one, two = Spool(tmp_path, "a:1"), Spool(tmp_path, "b:1")
    one.add(report(1))
    assert taken(two) == []
    one.drop()
    assert taken(one) == []


def test_it_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1", limit=1000)
    while spool.add(report(1)):
        pass
    assert spool.path.stat().st_size <= 1000
    assert len(taken(spool)) > 3
    assert spool.add(report(2))


def test_long_siginfo_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    spool.add(report(1, outhash_siginfo="x" * (spool_module.SIGINFO_LIMIT + 1), PN="sed"))
    spool.add(report(2, outhash_siginfo="short"))
    assert taken(spool) == [report(1, PN="sed"), report(2, outhash_siginfo="short")]


def test_what_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    spool.add(report(1))
    data = spool.path.read_bytes()
    spool.path.write_bytes(data + data[:20])
    spool.add(report(2))
    spool.path.write_bytes(spool.path.read_bytes() + json.dumps(["no report"]).encode() + b"\n\xff\n{}\n")
    assert taken(spool) == [report(1), report(2)]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert not Spool(tmp_path / "file" / "cache", "a:1").add(report(1))


def test_many_tasks_add_while_one_sends(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    context = multiprocessing.get_context("fork")
    tasks = [context.Process(target=add_many, args=(spool, 100 * number, 100)) for number in range(4)]
    for task in tasks:
        task.start()
    found = []
    while any(task.is_alive() for task in tasks):
        found += taken(spool)
    for task in tasks:
        task.join()
        assert task.exitcode == 0
    found += taken(spool)
    assert sorted(item["unihash"] for item in found) == [f"{number:064x}" for number in range(400)]


def test_two_senders(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a:1")
    spool.add(report(1))
    nested: list[int] = []
    assert spool.send(lambda _: nested.append(Spool(tmp_path, "a:1").send(lambda _: None))) == 1
    assert nested == [0]
