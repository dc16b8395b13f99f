"""`shardhash edge` as users call it: processes that start, find, stop and outlive each other."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardhash.client import Client, create_client
from shardhash.edge import cli
from shardhash.edge.place import find_place
from shardhash.edge.settings import bind_of, make_settings
from shardhash.errors import ConfigError
from shardhash.shard.directory.lock import is_locked, lock_directory
from tests.server.test_service_manager import pass_sockets
from tests.servers import IN_MEMORY, ROOT, ServerProcess, free_port

pytestmark = pytest.mark.once

LIMIT = 60.0
A, B, C = "a" * 64, "b" * 64, "c" * 64


class Home:
    """A user's home, where an edge may run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / ".local" / "state" / "shardhash"
        self.address = f"unix://{self.data}/edge.sock"

    def begin(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Begin `shardhash edge`."""
        return subprocess.Popen(
            [sys.executable, "-m", "shardhash", "edge", *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """What it prints; when it fails, errors, too."""
        process = self.begin(*arguments)
        out, said = process.communicate(timeout=LIMIT)
        assert process.returncode == status, said
        return out.rstrip("\n") if status == 0 else out + said

    def ask(self, *arguments: str, status: int = 0) -> str:
        """The same of what starts nothing, in this process."""
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert cli.main(["--data", str(self.data), *arguments]) == status, out.getvalue()
        return out.getvalue().rstrip("\n")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("--status", "--json"))
        return found

    def start(self, *arguments: str) -> dict[str, Any]:
        """Start or find one: address, pid, started."""
        found: dict[str, Any] = json.loads(self.run("--json", *arguments))
        return found

    def log(self) -> str:
        return (self.data / "edge.log").read_text()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.ask("--stop")


def wait_for_end(process: int) -> None:
    """Wait for the end of a process that is no child."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], LIMIT)[0], "it goes on"
    finally:
        os.close(descriptor)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def report(address: str) -> None:
    with create_client(address) as client:
        assert client.report_unihash(A, "m", B, C)["unihash"] == C


def unihash(address: str) -> str | None:
    with create_client(address) as client:
        return client.get_unihash("m", A)


# ------------------------------------------------------------------------------------------------- starting and ending


def test_ten_starts_at_one_moment_are_one_server_that_goes_on_without_them(home: Home) -> None:
    """What it prints is the address alone, and who reads that need not wait for the server's end."""
    begun = [home.begin("--json", start_new_session=True) for _ in range(10)]
    told = [json.loads(process.communicate(timeout=LIMIT)[0]) for process in begun]
    assert {one["address"] for one in told} == {home.address}
    assert len({one["pid"] for one in told}) == 1
    assert sum(one["started"] for one in told) == 1
    for process in begun:  # as the end of the shells would
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)
    server = psutil.Process(told[0]["pid"])
    assert os.getsid(server.pid) == server.pid
    assert len(server.children()) == 1, "one worker"
    assert home.data.stat().st_mode & 0o777 == 0o700
    with create_client(home.address):
        status = home.status()
        assert "1 connections, ends 3600 s after the last one" in home.ask("--status")
    assert (status["connections"], status["quiet"], status["upstream"]) == (1, 0.0, None)
    assert home.run() == home.address
    assert home.ask("--stop") == f"the server of {home.data} has stopped"
    wait_for_end(server.pid)
    assert not Path(home.address.removeprefix("unix://")).exists()
    assert home.ask("--stop") == f"no server runs for {home.data}"
    assert home.ask("--status", status=1) == f"no server runs for {home.data}"


def test_it_stays_for_a_silent_client_ends_without_one_and_the_next_start_has_all(home: Home) -> None:
    found, client = connect_in_time(home, 0.5)
    with client:
        assert client.report_unihash(A, "m", B, C)["unihash"] == C
        until = time.monotonic() + 1.0
        while time.monotonic() < until:  # it is silent for longer than the server waits for clients
            assert home.status()["connections"] == 1
        assert client.ping() == {"alive": True}
        assert home.status()["pid"] == found["pid"]
    wait_for_end(found["pid"])
    assert not is_locked(home.data)
    assert "nobody was connected for 0.5 s" in home.log()
    assert home.start()["started"]
    assert unihash(home.address) == C


def connect_in_time(home: Home, idle: float, *arguments: str) -> tuple[dict[str, Any], Client]:
    """A client of an edge, which does not wait long for one; on a busy machine another start may be needed."""
    while True:
        found = home.start("--idle", str(idle), *arguments)
        with suppress(ConnectionError):
            return found, create_client(found["address"])


def test_killed_with_all_that_it_leaves_behind(home: Home) -> None:
    first = home.start()
    report(home.address)
    os.kill(first["pid"], signal.SIGKILL)
    wait_for_end(first["pid"])
    assert (home.data / "edge.sock").is_socket()
    assert (home.data / "control").is_socket()
    assert home.ask("--status", status=1)
    second = home.start()
    assert second["started"]
    assert second["pid"] != first["pid"]
    assert unihash(home.address) == C


def test_who_began_it_is_killed_and_the_next_one_waits_for_the_server(home: Home) -> None:
    first = home.begin()
    until((home.data / "lock").exists, "its server does not begin")
    first.kill()
    first.communicate()
    found = home.start()
    assert found["address"] == home.address
    assert not found["started"]


# ----------------------------------------------------------------------------------------------------- what is refused


def test_why_it_did_not_start(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = home.run("--bind", f"127.0.0.1:{taken.getsockname()[1]}", status=1)
    assert "the server did not start: cannot listen on 127.0.0.1" in said
    assert f"its log: {home.data}/edge.log" in said
    (home.data / "manifest.json").write_text("{}")
    assert "manifest.json" in home.run(status=3)


def test_a_directory_that_others_hold(home: Home, start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    data = tmp_path / "served"
    server = start_server("--data", str(data), "--workers", "1")
    text = "was not started by `shardhash edge`"
    assert text in home.run("--data", str(data), status=1)
    assert text in home.ask("--data", str(data), "--stop", status=1)
    assert text in home.ask("--data", str(data), "--status", status=1)
    assert server.process.poll() is None
    found = home.start()
    refused = home.ask("--foreground", status=1)
    assert f"runs for {home.data} already, at {home.address} (process {found['pid']})" in refused


def test_network_file_systems_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shardhash.edge.place.file_system_of", lambda _: "nfs4")
    for arguments in ([], ["--foreground"]):
        assert cli.main(["--data", str(tmp_path / "data"), *arguments]) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path}/data is on a file system of type nfs4" in said
        assert "--data /var/tmp/shardhash-" in said
        assert "--upstream ADDRESS" in said
    assert not (tmp_path / "data").exists()


def test_folders_where_others_could_put_their_server_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o777)
    assert cli.main(["--data", str(tmp_path)]) == 1
    assert f"everybody may write into {tmp_path}" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert cli.main(["--data", str(tmp_path)]) == 1
    assert "an edge is of one user, user 54321" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stop", "--status"], "give one of them"),
        (["--data", "a", "--sstate", "b"], "give one of them"),
        (["--sstate", "/"], "nothing beside the root"),
        (["--idle", "0"], "span of time"),
        (["--upstream", "nowhere"], "the port is missing"),
    ],
)
def test_wrong_calls(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("bind", ["0.0.0.0:8686", ":8686", "ws://hash.example.com:80", "[::]:1"])
def test_an_edge_is_for_this_machine(bind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--data", str(tmp_path), "--bind", bind]) == 1
    assert "for this machine alone" in capsys.readouterr().err


def test_where_the_data_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "sstate-cache")
    assert find_place(None, str(tmp_path / "link"), {}) == tmp_path / "sstate-cache.shardhash"
    assert find_place(None, str(tmp_path / "sstate-cache") + "/", {}) == tmp_path / "sstate-cache.shardhash"
    assert find_place("here", None, {}) == Path.cwd() / "here"
    assert find_place(None, None, {"XDG_STATE_HOME": "/state"}) == Path("/state/shardhash")
    for data, sstate in (("a", "b"), ("a\nb", None)):
        with pytest.raises(ConfigError):
            find_place(data, sstate, {})


# --------------------------------------------------------------------------------------------- upstream, rights, others


def test_it_shares_through_its_upstream_and_says_when_another_one_is_wanted(home: Home) -> None:
    with ServerProcess(*IN_MEMORY) as team:
        report(team.address)
        home.run("--upstream", team.address)
        assert unihash(home.address) == C
        with create_client(home.address) as client:
            client.report_unihash(B, "m", B, B)
        with create_client(team.address) as client:
            until(lambda: client.get_unihash("m", B) == C, "it is not sent on")
        until(lambda: home.status()["forwarding"]["waiting"] == 0, "it still waits")
        assert f"upstream {team.address}: answers; 0 reports wait" in home.ask("--status")
        process = home.begin("--upstream", "127.0.0.1:1")
        out, said = process.communicate(timeout=LIMIT)
        assert out.strip() == home.address
        assert f"runs already, with {team.address} for its upstream, and not 127.0.0.1:1" in said
        process = home.begin("--bind", "127.0.0.1:0")
        assert f"runs already, at {home.address} and not at 127.0.0.1:0" in process.communicate(timeout=LIMIT)[1]
    assert unihash(home.address) == C, "the upstream is gone, and what it said is known here"


def test_what_waits_for_the_upstream_is_sent_by_a_later_start(home: Home) -> None:
    """A server with such reports ends, too, if nobody needs it, though later."""
    port = free_port()
    found, client = connect_in_time(home, 0.5, "--upstream", f"127.0.0.1:{port}")
    with client:
        client.report_unihash(A, "m", B, C)
    wait_for_end(found["pid"])
    assert "1 report waits for the upstream, to be sent by the next start" in home.log()
    with ServerProcess(*IN_MEMORY, binds=[f"127.0.0.1:{port}"]) as team:
        home.run("--upstream", team.address)
        with create_client(team.address) as client:
            until(lambda: client.get_unihash("m", A) == C, "it is not sent on")


def test_an_upstream_that_is_not_ours_is_only_asked(tmp_path: Path) -> None:
    for arguments, forward in (([], True), (["--no-forward"], False)):
        given = cli._options().parse(["--upstream", "far:1", "--upstream", "farther:1", *arguments], {})
        settings = make_settings(given, tmp_path, bind_of(tmp_path, None))
        assert settings.upstream is not None
        assert (settings.forward, [str(one) for one in settings.upstream.others]) == (forward, ["farther:1"])
        assert (settings.workers, settings.idle, settings.data) == (1, 3600.0, tmp_path)


def test_others_of_this_machine_may_not_delete(home: Home) -> None:
    found = home.start("--bind", "127.0.0.1:0")
    report(found["address"])
    with create_client(found["address"]) as client, pytest.raises(Exception, match="not allowed"):
        client.remove({"method": "m"})
    assert unihash(found["address"]) == C


def test_a_socket_of_a_service_manager_is_used_and_outlives_it(home: Home) -> None:
    """`shardhash edge` connects to it, which has the manager, here this test, start the server."""
    home.data.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.bind(home.address.removeprefix("unix://"))
        raw.listen()
        for _ in range(2):
            asks = home.begin("--json")
            assert select.select([raw], [], [], LIMIT)[0]
            options = ("--foreground", "--data", str(home.data), "--idle", "500ms")
            with pass_sockets([raw], "edge", *options) as server:
                found = json.loads(asks.communicate(timeout=LIMIT)[0])
                assert (found["address"], found["started"], found["pid"]) == (home.address, False, server.pid)
                _, log = server.communicate(timeout=LIMIT)
            assert server.returncode == 0
            assert "nobody was connected" in log
            assert (home.data / "edge.sock").is_socket(), "it is the manager's"


def test_a_lock_for_a_moment_is_waited_for(home: Home) -> None:
    """As `shardhash verify` takes it."""
    home.data.mkdir(parents=True)
    with lock_directory(home.data):
        starts = home.begin()
        said = starts.stderr
        assert said is not None
        assert f"waiting: {home.data} is in use by process {os.getpid()}" in said.readline()
    assert starts.communicate(timeout=LIMIT)[0].strip() == home.address


def test_a_flag_wins_over_the_variable_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARDHASH_EDGE_DATA", "/somewhere")
    assert cli.main(["--sstate", str(tmp_path / "s"), "--status"]) == 1
    assert capsys.readouterr().out == f"no server runs for {tmp_path}/s.shardhash\n"


def test_a_stop_while_it_starts(home: Home) -> None:
    starts = home.begin()
    until((home.data / "lock").exists, "its server does not begin")
    home.ask("--stop")
    starts.communicate(timeout=LIMIT)
    assert "no server runs" in home.ask("--status", status=1)
