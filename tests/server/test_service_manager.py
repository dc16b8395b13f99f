"""What a service manager is told, and sockets that it passes: real servers, and a manager that listens."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from shardhash.client import create_client
from shardhash.server.service_manager import PassedSockets, ServiceManager
from shardhash.server.watchdog import answers
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.wire.address import Address, parse_bind
from tests.servers import IN_MEMORY, ROOT, ServerProcess

LIMIT = 60.0


class Manager:
    """A service manager's end: collects what is told at a socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self._told: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while text := self.socket.recv(65536):
            self._told.put(text)

    def close(self) -> None:
        """Listen no more."""
        self.socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self.socket.close()

    def states(self) -> dict[str, str]:
        """What is told next."""
        return dict(line.split("=", 1) for line in self._told.get(timeout=LIMIT).decode().splitlines())

    def until(self, name: str) -> list[dict[str, str]]:
        """All that is told up to a state of this name."""
        told = [self.states()]
        while name not in told[-1]:
            told.append(self.states())
        return told


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(str(tmp_path / "notify"))
    yield listening
    listening.close()


def named(told: list[dict[str, str]], name: str) -> list[str]:
    return [states[name] for states in told if name in states]


def test_ready_after_recovery_with_progress_reload_and_stop(
    start_server: Callable[..., ServerProcess], manager: Manager, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    prepare_directory(OsFileSystem(), tmp_path / "data", 3, lambda _: None)
    server = start_server(
        *("--data", str(tmp_path / "data"), "--workers", "2"), environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}
    )
    told = manager.until("READY")
    assert any("resharding" in text for text in named(told, "STATUS"))
    assert all(int(text) > 0 for text in named(told, "EXTEND_TIMEOUT_USEC"))
    assert told[-1]["STATUS"].startswith(f"serving at {server.address}")
    server.process.send_signal(signal.SIGHUP)
    told = manager.until("READY")
    assert set(told[0]) == {"RELOADING", "MONOTONIC_USEC"}
    assert server.stop() == 0
    assert manager.until("STOPPING")[-1]["STATUS"] == "stopping"


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "ws://127.0.0.1:0", "unix://{}/" + "long" * 30])
def test_the_watchdog_is_fed_while_the_server_serves(
    bind: str, start_server: Callable[..., ServerProcess], manager: Manager, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    server = start_server(*IN_MEMORY, binds=[bind.format(tmp_path)], environment=environment)
    manager.until("READY")
    for _ in range(3):
        assert manager.until("WATCHDOG")[-1] == {"WATCHDOG": "1"}
    with create_client(server.address) as client:
        assert client.get_stats()["requests"]["num"] == 0, "the probe counts as no request"


async def test_a_server_that_never_answers_is_not_taken_for_one_that_serves() -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody accepts
        address = Address("tcp", "127.0.0.1", silent.getsockname()[1])
        assert not await answers(address, 0.2)
    assert not await answers(address, 0.2), "nobody listens any more"


def test_an_abstract_socket_and_the_variables_of_workers(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    name = f"shardhash-test-{os.getpid()}"
    listening = Manager("\0" + name)
    server = start_server(*IN_MEMORY, environment={"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "60000000"})
    listening.until("READY")
    listening.close()
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 2
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environment
        assert b"WATCHDOG_USEC" not in environment


# --------------------------------------------------------------------------------------------------- passed sockets

PASS = """
import os, sys
number, *command = sys.argv[1:]
os.environ.update(LISTEN_FDS=number, LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "shardhash", *command])
"""


def pass_sockets(sockets: Sequence[socket.socket | IO[str]], *command: str) -> subprocess.Popen[str]:
    """Start a server with sockets as descriptors from 3 on, as systemd does."""
    held = [os.dup(raw.fileno()) for raw in sockets]

    def place() -> None:
        for number, descriptor in enumerate(held):
            os.dup2(descriptor, 100 + number)
        for number in range(len(held)):
            os.dup2(100 + number, 3 + number)

    return subprocess.Popen(
        [sys.executable, "-c", PASS, str(len(sockets)), *command],
        preexec_fn=place,  # noqa: PLW1509  # the child places descriptors and nothing else
        close_fds=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_passed_sockets_are_served_and_outlive_the_server(tmp_path: Path) -> None:
    """A client that comes while nobody serves waits; it is not refused."""
    tcp, unix, stray = socket.socket(), socket.socket(socket.AF_UNIX), socket.socket()
    tcp.bind(("127.0.0.1", 0))
    unix.bind(str(tmp_path / "server.sock"))
    stray.bind(("127.0.0.1", 0))
    for raw in (tcp, unix, stray):
        raw.listen()
    port = tcp.getsockname()[1]
    waiting = socket.create_connection(("127.0.0.1", port))
    binds = ("--bind", f"127.0.0.1:{port}", "--bind", f"unix://{tmp_path}/server.sock")
    for coordinators in ("1", "3"):
        sizes = ("--workers", "1", "--coordinators", coordinators)
        with pass_sockets([tcp, unix, stray], "serve", "--memory", *sizes, *binds) as server:
            assert server.stdout is not None
            assert [server.stdout.readline().strip() for _ in range(2)] == [
                f"listening on 127.0.0.1:{port}",
                f"listening on unix://{tmp_path}/server.sock",
            ]
            for address in (f"127.0.0.1:{port}", f"unix://{tmp_path}/server.sock"):
                with create_client(address) as client:
                    assert client.ping() == {"alive": True}
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=LIMIT)
        assert server.returncode == 0
        assert f"a socket at 127.0.0.1:{stray.getsockname()[1]} was passed, but no address is like that" in log
        assert (tmp_path / "server.sock").is_socket(), "it is the manager's"
    waiting.close()
    for raw in (tcp, unix, stray):
        raw.close()


def listening(family: int, place: tuple[str, int]) -> socket.socket:
    raw = socket.socket(family)
    raw.bind(place)
    raw.listen()
    return raw


def test_which_socket_belongs_to_which_address() -> None:
    loopback, everywhere = listening(socket.AF_INET, ("127.0.0.1", 0)), listening(socket.AF_INET6, ("::", 0))
    ports = [raw.getsockname()[1] for raw in (loopback, everywhere)]
    passed = PassedSockets([loopback, everywhere])
    assert passed.take(parse_bind(f":{ports[0]}")[0]) == []
    assert passed.take(parse_bind("unix://./a")[0]) == []
    assert passed.take(parse_bind(f"ws://localhost:{ports[0]}")[0]) == [loopback]
    assert passed.take(parse_bind(f":{ports[1]}")[0]) == [everywhere]
    assert passed.close() == []
    loopback.close()
    everywhere.close()


def test_variables_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "OTHER": "x"}
    manager = ServiceManager(environment)
    assert environment == {"OTHER": "x"}
    assert manager.watchdog is None
    assert manager.sockets.close() == []
    manager.tell(READY="1")  # to nobody


@pytest.mark.parametrize(
    ("make", "words"),
    [(socket.socket, "does not listen: write ListenStream="), (partial(open, os.devnull), "is not a socket")],
)
def test_a_descriptor_that_is_no_listening_socket_is_refused(make: Callable[[], IO[str]], words: str) -> None:
    with make() as passed:
        server = pass_sockets([passed], "serve", "--memory", "--workers", "1")
        _, log = server.communicate(timeout=LIMIT)
    assert server.returncode == 1
    assert f"descriptor 3, passed by LISTEN_FDS, {words}" in log


# ----------------------------------------------------------------------------------------------------- exit status


@pytest.mark.parametrize("damaged", ["manifest.json", "log"])
def test_a_damaged_directory_ends_with_a_status_of_its_own(damaged: str, tmp_path: Path) -> None:
    """So that a service manager does not try again and again."""
    data = tmp_path / "data"
    with ServerProcess("--data", str(data), "--workers", "1") as server, create_client(server.address) as client:
        for digest in ("1" * 64, "2" * 64):
            client.report_unihash(digest, "m", digest, digest)
    path = data / damaged if damaged != "log" else min(data.rglob("log-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-m", "shardhash", "serve", "--data", str(data), "--bind", "127.0.0.1:0"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert result.returncode == 3
    assert "ERROR" in result.stderr
    assert "Traceback" not in result.stderr
