"""SHARDHASH_EDGE: the layer has a real `shardhash edge` run, or says once why there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardhash.client import create_client
from shardhash.edge import cli
from shardhash_bitbake import edge
from shardhash_bitbake.edge import Edge, EdgeError, find_edge
from tests.layer.builds import Build, RunQueueData, digest, load
from tests.servers import IN_MEMORY, ROOT, ServerProcess

pytest.importorskip("bb")

LAYER = "OEEquivHashShardhash"
METHOD = "edge.m"


@pytest.fixture
def one_task() -> Build:
    return Build({"/a.bb:do_package": set()}, {"/a.bb": "a"}, {"/a.bb:do_package": digest("base")})


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program `shardhash`, alone in PATH; its edge beside sstate is stopped after the test."""
    path = tmp_path / "bin" / "shardhash"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m shardhash "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield path
    cli.main(["--sstate", str(tmp_path / "sstate"), "--stop"])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_build_has_an_edge_which_asks_the_configured_server_as_its_user(
    one_task: Build, program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admin = ("--admin-user", "boss", "--admin-password", "secret", "--anon-perms", "@none")
    with ServerProcess(*IN_MEMORY, *admin) as team:
        settings = {"BB_HASHSERVE": team.address, "BB_HASHSERVE_USERNAME": "boss", "BB_HASHSERVE_PASSWORD": "secret"}
        direct = RunQueueData(one_task, LAYER, **settings).siggen
        with direct.client() as client:
            client.report_unihash("1" * 64, METHOD, "2" * 64, "3" * 64)
        direct.exit()
        builds = [
            RunQueueData(one_task, LAYER, **settings, SHARDHASH_EDGE="1", SSTATE_DIR=str(tmp_path / "sstate"))
            for _ in range(2)
        ]
        for build in builds:
            build.prepare()
            assert build.siggen.server == f"unix://{tmp_path}/sstate.shardhash/edge.sock"
            # What a task of the build is given.
            assert build.siggen.get_taskdata()[0] == build.siggen.server
            assert "secret" not in build.siggen.get_taskdata()
            with build.siggen.client() as client:
                assert client.get_unihash(METHOD, "1" * 64) == "3" * 64
                client.report_unihash("4" * 64, METHOD, "5" * 64, "6" * 64)
        with create_client(team.address, "boss", "secret") as client:
            end = time.monotonic() + 60
            while client.get_unihash(METHOD, "4" * 64) is None:
                assert time.monotonic() < end, "the edge does not send it on"
                time.sleep(0.01)
    assert not warnings(caplog)
    # The team's server is gone, and what it said is here.
    for build in builds:
        build.prepare()
        with build.siggen.client() as client:
            assert client.get_unihash(METHOD, "1" * 64) == "3" * 64
        build.siggen.exit()
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "no program shardhash in PATH"),
        ("echo 'shardhash edge: the disk is full' >&2; exit 1", "shardhash edge: the disk is full"),
        ("exit 2", "ended with status 2"),
        ("echo hello there", "printed what is no address"),
        ("read nothing; exec /bin/sleep 60", "did not start within 0.2 s"),
    ],
)
def test_without_one_the_configured_server_is_asked_after_one_warning(
    script: str | None,
    words: str,
    one_task: Build,
    program: Path,
    shared_server: ServerProcess,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge, "LIMIT", 0.2 if "within" in words else 60.0)
    program.unlink() if script is None else program.write_text(f"#!/bin/sh\n{script}\n")
    build = RunQueueData(
        one_task, LAYER, BB_HASHSERVE=shared_server.address, SHARDHASH_EDGE="1", SSTATE_DIR=str(tmp_path / "sstate")
    )
    build.prepare()
    with build.siggen.client() as client:
        assert client.ping() == {"alive": True}
    build.siggen.exit()
    (warning,) = warnings(caplog)
    assert words in warning
    assert f"{shared_server.address} is used" in warning


def test_an_edge_that_comes_and_goes_between_builds(
    one_task: Build, shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = RunQueueData(one_task, LAYER, BB_HASHSERVE="localhost:1", SHARDHASH_EDGE="/edge")
    answers: list[str | None] = [shared_server.addresses[1], None, shared_server.addresses[0]]

    def start(*_: Any) -> str:
        answer = answers.pop(0)
        if answer is None:
            raise EdgeError("gone")
        return answer

    monkeypatch.setattr("shardhash_bitbake.handler.start_edge", start)
    used = []
    for _ in range(3):
        build.prepare()
        used.append(build.siggen.server)
    build.siggen.exit()
    assert used == [shared_server.addresses[1], "localhost:1", shared_server.addresses[0]]
    assert [text.split(":")[0] for text in warnings(caplog)][:1] == [
        "There is no hash equivalence server on this machine (SHARDHASH_EDGE)"
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SHARDHASH_EDGE": "0"}, None),
        ({"SHARDHASH_EDGE": "1", "SSTATE_DIR": "/s"}, Edge(("--sstate", "/s"), "far:1")),
        ({"SHARDHASH_EDGE": "/var/tmp/e"}, Edge(("--data", "/var/tmp/e"), "far:1")),
        ({"SHARDHASH_EDGE": "/e", "BB_HASHSERVE": "auto"}, Edge(("--data", "/e"), "", False)),
        (
            {"SHARDHASH_EDGE": "/e", "BB_HASHSERVE": "unix:///b/s", "BB_HASHSERVE_UPSTREAM": "u:1"},
            Edge(("--data", "/e"), "u:1", False),
        ),
    ],
)
def test_what_the_settings_say(one_task: Build, variables: dict[str, str], expected: Edge | None) -> None:
    load("shardhash_bitbake.handler")
    assert find_edge(one_task.data(**{"BB_HASHSERVE": "far:1", **variables})) == expected


@pytest.mark.parametrize("variables", [{"SHARDHASH_EDGE": "yes"}, {"SHARDHASH_EDGE": "1"}])
def test_settings_that_are_wrong_are_a_warning(
    one_task: Build, shared_server: ServerProcess, variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    build = RunQueueData(one_task, LAYER, BB_HASHSERVE=shared_server.address, **variables)
    build.prepare()
    build.siggen.exit()
    (warning,) = warnings(caplog)
    assert "SHARDHASH_EDGE is" in warning
