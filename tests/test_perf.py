"""The measuring itself: every client gets right answers from a real server, and notices a wrong one."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from perf import compare, coordinators, durability, least, moving, paired, replay, run, seeding, servers
from perf.builders import CLIENTS, Builder
from perf.filling import fill
from perf.workload import DIGEST_SIZE, TRACES, Step, Workload, WrongAnswerError
from shardhash.admin.verify import verify
from shardhash.shard.directory.manifest import Manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from tests.servers import IN_MEMORY, ServerProcess

pytestmark = pytest.mark.once

WORKLOAD = Workload(lookups=300, known=80)
KINDS = [name for name in CLIENTS if name != "redis"]


@pytest.fixture(scope="module")
def filled() -> Iterator[dict[str, str]]:
    """A server that knows the workload; its addresses by kind."""
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", "ws://127.0.0.1:0"]) as server:
        yield dict(zip(("tcp", "ws"), server.addresses, strict=True))


@asynccontextmanager
async def builder(kind: str, addresses: dict[str, str], steps: Sequence[Step]) -> AsyncIterator[Builder]:
    if kind.startswith("stock"):
        pytest.importorskip("bb.asyncrpc")
    client, transport = CLIENTS[kind]
    await seeding.report(addresses["ws"], WORKLOAD)
    made = client(addresses[transport], steps)
    await made.connect()
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_right_answers_pass(kind: str, filled: dict[str, str]) -> None:
    steps = WORKLOAD.steps(builder=1)
    assert any(step.known is not None for step in steps)
    async with builder(kind, filled, steps) as asker:
        for number in range(len(steps)):
            await asker.ask(number)


def swapped(step: Step) -> Step:
    """The answers of the first two lookups change places."""
    first, second, rest = step.unihashes[:DIGEST_SIZE], step.unihashes[DIGEST_SIZE : 2 * DIGEST_SIZE], step.unihashes
    return replace(step, unihashes=second + first + rest[2 * DIGEST_SIZE :])


def one_bit_off(step: Step) -> Step:
    return replace(step, unihashes=step.unihashes[:-1] + bytes([step.unihashes[-1] ^ 1]))


def first_unknown(step: Step) -> Step:
    unihashes = bytes(DIGEST_SIZE) + step.unihashes[DIGEST_SIZE:]
    return replace(step, unihashes=unihashes, known=b"\0" + b"\1" * (len(step) - 1))


@pytest.mark.parametrize(
    ("kind", "tamper"),
    [
        *product([kind for kind in KINDS if kind != "exists"], [swapped, one_bit_off, first_unknown]),
        ("exists", one_bit_off),  # of existence, the others change nothing
    ],
)
async def test_a_wrong_answer_is_noticed(kind: str, tamper: Callable[[Step], Step], filled: dict[str, str]) -> None:
    right = next(step for step in Workload(lookups=300).steps() if len(step) > 10)
    known = [taskhash in {key for _, key in WORKLOAD.mappings()} for taskhash in _each(right.taskhashes)]
    step = replace(
        right,
        taskhashes=b"".join(item for item, there in zip(_each(right.taskhashes), known, strict=True) if there),
        unihashes=b"".join(item for item, there in zip(_each(right.unihashes), known, strict=True) if there),
    )
    async with builder(kind, filled, [step, tamper(step)]) as asker:
        await asker.ask(0)
        with pytest.raises(WrongAnswerError):
            await asker.ask(1)


def _each(joined: bytes) -> list[bytes]:
    return [joined[start : start + DIGEST_SIZE] for start in range(0, len(joined), DIGEST_SIZE)]


def test_the_workload_is_the_trace() -> None:
    waves = Workload().steps()
    assert (len(waves), sum(map(len, waves)), max(map(len, waves))) == (159, 10371, 1543)
    shuffled = Workload().steps(builder=3)
    assert [len(step) for step in shuffled] == [len(step) for step in waves]
    assert shuffled != waves
    pairs = [sorted(zip(_each(step.taskhashes), _each(step.unihashes), strict=True)) for step in waves]
    assert pairs == [sorted(zip(_each(step.taskhashes), _each(step.unihashes), strict=True)) for step in shuffled]


def test_blocks() -> None:
    blocks = Workload(TRACES / "minimal.jsonl.gz", "block", block=1000, lookups=3500).steps()
    assert [len(step) for step in blocks] == [1000, 1000, 1000, 500]
    taskhashes = [taskhash for step in blocks for taskhash in _each(step.taskhashes)]
    asked = [taskhash for step in Workload(TRACES / "minimal.jsonl.gz").steps() for taskhash in _each(step.taskhashes)]
    assert taskhashes[: len(asked)] == asked


@pytest.mark.parametrize("program", [replay, compare])
def test_a_small_measurement(
    program: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if program is compare:
        pytest.importorskip("redis")
        pytest.importorskip("hiredis")
    file = tmp_path / "figures.json"
    arguments = ["--lookups", "200", "--builders", "3", "--rounds", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["perf/program.py", *arguments])
    monkeypatch.delenv("BITBAKE_DIR", raising=False)
    assert (replay.main if program is replay else compare.main)() == 0
    assert "600 lookups" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["machine"]["cores"] > 0
    measured = figures if program is replay else figures["contenders"]["shardhash native"]
    assert len(measured["all_seconds"]) == 2
    assert measured["cpu_seconds"].keys() == {"coordinator", "workers", "client"}


def test_a_small_measurement_of_durability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--reports", "600", "--reporters", "3", "--builders", "2", "--rounds", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["perf/durability.py", *arguments, "--folder", str(tmp_path)])
    monkeypatch.delenv("BITBAKE_DIR", raising=False)
    assert durability.main() == 0
    assert "every report was there" in capfd.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["recovery"]["mappings"] == 600
    assert figures["reports"].keys() == {"off", "interval", "always"} | {
        "off, batches",
        "interval, batches",
        "always, batches",
    }
    assert figures["snapshot"]["during_ms"]["p50"] > 0


def test_a_trial_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for package in ("redis", "hiredis", "matplotlib"):
        pytest.importorskip(package)
    arguments = ["--quick", "--most", "3000", "--folder", str(tmp_path), "--name", "trial"]
    monkeypatch.setattr(sys, "argv", ["perf/run.py", *arguments])
    monkeypatch.delenv("BITBAKE_DIR", raising=False)
    assert run.main() == 0
    assert "start-up, --data" in capfd.readouterr().out
    figures = json.loads((tmp_path / "trial.json").read_text())
    assert figures.keys() > run.PARTS.keys()
    page = (tmp_path / "trial.md").read_text()
    assert "its figures mean nothing" in page
    plots = sorted(path.name for path in tmp_path.glob("*.png"))
    assert plots == ["trial-batches.png", "trial-peers.png", "trial-scale.png", "trial-waves.png"]
    assert all(f"({name})" in page for name in plots)


def test_coordinators_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--mappings 500 --builders 2 --processes 1 --workers 1 --reports 5 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["perf/coordinators.py", *f"--coordinators 2 --cores 1 {sizes}".split()])
    cores = os.sched_getaffinity(0)
    assert coordinators.main() == 0
    assert os.sched_getaffinity(0) == cores
    out = capsys.readouterr().out
    for kind in ("waves", "batches", "reports"):
        assert re.search(rf"^{kind}, 1 core, K = 2 +[1-9]", out, re.MULTILINE)
        assert re.search(rf"^{kind} +32 +11 \+ 21 +[1-9]", out, re.MULTILINE)


def test_two_checkouts_take_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, works = tmp_path / "out.json", ["waves, native", "reports, sync interval"]
    sizes = "--lookups 60 --reports 2 --builders 2 --processes 1 --workers 1 --rounds 1"
    monkeypatch.setattr(
        sys, "argv", ["perf/paired.py", str(servers.ROOT), "--json", str(output), *sizes.split(), "--works", *works]
    )
    assert paired.main() == 0, capsys.readouterr().err
    figures = json.loads(output.read_bytes())["works"]
    assert {name: one["now"]["lookups"] for name, one in figures.items()} == dict(zip(works, (120, 4), strict=True))
    assert all(one["time_ratio"] > 0 < one["cpu_ratio"] for one in figures.values())
    assert "waves, native" in capsys.readouterr().out


def test_reports_beside_the_least_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    sizes = "--reports 5 --builders 2 --processes 1 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["perf/least.py", "--json", str(output), *sizes.split()])
    assert least.main() == 0, capsys.readouterr().err
    figures = json.loads(output.read_bytes())["works"]
    assert {name: (one["before"]["lookups"], one["now"]["lookups"]) for name, one in figures.items()} == {
        "reports, sync always": (10, 10),
        "reports, sync interval": (10, 10),
    }
    assert "shardhash" in capsys.readouterr().out


def test_directories_written_directly_hold_what_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "data", 3, 5000, rows=True)
    verdict = verify(OsFileSystem(), Manifest(3, 1).folders(tmp_path / "data"), lambda text: None)
    assert not verdict.damage
    assert (verdict.counts["mappings"], verdict.counts["rows"]) == (5000, 5000)


def test_a_wrong_answer_ends_a_measurement(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with servers.shardhash(1) as server:
        # It was told of all; the builders believe that it knows a half.
        arguments = ["--address", server.addresses["ws"], "--lookups", "300", "--builders", "2", "--rounds", "1"]
        monkeypatch.setattr(sys, "argv", ["perf/replay.py", *arguments])
        assert replay.main() == 0
        assert "coordinator" in capsys.readouterr().out
        monkeypatch.setattr(sys, "argv", ["perf/replay.py", *arguments, "--known", "50"])
        assert replay.main() == 1
        assert "is due" in capsys.readouterr().err


def test_a_small_move_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = moving.measure(tmp_path, 300, 500)
    assert list(figures) == ["import", "import again", "export"]
    assert all(found["cpu"] > 0 and found["memory"] > 0 for found in figures.values())
    with closing(sqlite3.connect(tmp_path / "new.db")) as database:
        assert database.execute("select count(*), count(outhash_siginfo) from outhashes_v2").fetchone() == (300, 300)
