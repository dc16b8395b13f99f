"""The servers under measurement, each started on loopback and stopped again: shardhash and its peers.

CPU time is read from each process's CPU clock, whose resolution is that of the scheduler; psutil's has ticks of 10 ms,
as long as some of the runs here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import psutil

START_LIMIT = 30.0
"""Seconds until a server that does not answer has failed."""
SETTLE_LIMIT, AT_REST = 120.0, 0.02
"""Seconds that a server may take to come to rest, and the CPU seconds in one that it may spend then."""
FOLLOWER = "shardhash.server.follower_process"
"""On the command line of a further coordinator."""
ROOT = Path(__file__).parent.parent
"""The checkout."""


class Server:
    """A server: where it answers, and its processes by role. Leaving its context stops it if it was started here."""

    def __init__(self, addresses: dict[str, str], roles: dict[str, list[int]]) -> None:
        self.addresses = addresses
        """By kind: ws, tcp, unix."""
        self.roles = roles
        """Process ids; a process that is not on this machine is in none."""
        self.stack = ExitStack()

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that each role has spent so far."""
        return {role: sum(map(cpu_seconds, pids)) for role, pids in self.roles.items()}

    def peak(self) -> dict[str, float]:
        """MiB: most memory that the processes of each role ever held, shared pages counted in each."""
        return {role: sum(map(peak_memory, pids)) for role, pids in self.roles.items()}

    def memory(self) -> dict[str, float]:
        """MiB that the processes of each role hold now."""
        return {
            role: sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20
            for role, pids in self.roles.items()
        }

    def share(self) -> dict[str, float]:
        """MiB that the processes of each role hold now, a page that several share counted once (PSS)."""
        return {
            role: sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 2**20
            for role, pids in self.roles.items()
        }

    def settle(self) -> None:
        """Wait until it rests from what it does behind its start, such as moving its table to huge pages."""
        deadline = time.monotonic() + SETTLE_LIMIT
        busy = 1.0
        while busy > AT_REST and time.monotonic() < deadline:
            before = sum(self.cpu().values())
            time.sleep(1)
            busy = sum(self.cpu().values()) - before

    def forget_peak(self) -> None:
        """Let `peak` count from now on."""
        for pid in _flat(self.roles):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def kill(self) -> None:
        """End all its processes as a loss of power would, without a word."""
        for pid in _flat(self.roles):
            os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()


def _flat(roles: dict[str, list[int]]) -> list[int]:
    return [pid for pids in roles.values() for pid in pids]


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def remote(address: str) -> Server:
    """A server that runs already; its processes are found if it is this machine's."""
    scheme, mark, _ = address.partition("://")
    kind = "tcp" if not mark else "unix" if scheme == "unix" else "ws"
    return Server({kind: address}, _roles(_listener(address)))


def shardhash(
    workers: int,
    *,
    durable: bool = False,
    data: Path | None = None,
    arguments: tuple[str, ...] = (),
    checkout: Path = ROOT,
) -> Server:
    """A checkout's server, in memory; on `data`; or `durable`: on a data directory of its own, gone with it."""
    with ExitStack() as stack:
        place = ["--memory"]
        if durable:
            data = Path(stack.enter_context(TemporaryDirectory(prefix="shardhash-perf-")))
        if data is not None:
            place = ["--data", str(data)]
        server = _start([*place, "--workers", str(workers), *arguments], environment(), checkout)
        stack.push(server.stack.pop_all())  # it stops before its folder goes
        server.stack = stack.pop_all()
    return server


def shardhash_on_database(url: str, *arguments: str) -> Server:
    """This checkout's server on a database that has its tables."""
    return _start(arguments, environment() | {"SHARDHASH_STORE": url})


def _start(arguments: Sequence[str], variables: dict[str, str], checkout: Path = ROOT) -> Server:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)  # it would leave the server behind
    with ExitStack() as stack:
        command = [sys.executable, "-m", "shardhash", "serve", "--log", "WARNING"]
        command += ["--bind", "ws://127.0.0.1:0", "--bind", "127.0.0.1:0", *arguments]
        process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True, env=variables)
        stack.callback(stop, process)
        lines = [line for _, line in zip(range(2), process.stdout or (), strict=False)]
        if len(lines) != 2:
            raise RuntimeError(f"shardhash did not start: {shlex.join(command)}")
        ws, tcp = (line.removeprefix("listening on ").strip() for line in lines)
        server = Server({"ws": ws, "tcp": tcp}, _roles(process.pid))
        server.stack = stack.pop_all()
    return server


def redis() -> Server | None:
    """A redis-server that keeps nothing on disk; None where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return _peer("redis", [program, *options], port)


def reference(database: str | None = None) -> Server | None:
    """BitBake's own server over raw TCP, from the checkout that BITBAKE_DIR names; None without one.

    `database`: the URL of one, instead of a file of its own.
    """
    if not (checkout := os.environ.get("BITBAKE_DIR")):
        return None
    program = Path(checkout) / "bin" / "bitbake-hashserv"
    stack = ExitStack()
    folder = stack.enter_context(TemporaryDirectory(prefix="reference-perf-"))
    port = _free_port()
    address = f"127.0.0.1:{port}"
    command = [sys.executable, str(program), "--bind", address, "--database", database or f"{folder}/hashserv.db"]
    server = _peer("reference", command, port)
    server.stack.push(stack)
    return server


def least(path: Path, sync: str) -> Server:
    """The least server of reports (least_server.py), which writes them to this file."""
    port = _free_port()
    return _peer("least", [sys.executable, "-m", "perf.least_server", str(port), str(path), sync], port)


def _peer(role: str, command: list[str], port: int) -> Server:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                stop(process)
                raise RuntimeError(f"{role} did not start: {shlex.join(command)}") from None
            time.sleep(0.02)
    server = Server({"tcp": f"127.0.0.1:{port}"}, {role: [process.pid]})
    server.stack.callback(stop, process)
    return server


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Stop a process in order, or by force if it takes too long."""
    process.terminate()
    try:
        process.wait(START_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _roles(pid: int | None) -> dict[str, list[int]]:
    if pid is None:
        return {}
    roles: dict[str, list[int]] = {"coordinator": [pid], "workers": []}
    for child in psutil.Process(pid).children(recursive=True):
        roles["coordinator" if FOLLOWER in child.cmdline() else "workers"].append(child.pid)
    return roles


def _listener(address: str) -> int | None:
    """The process that listens at an address of this machine, if it can be seen."""
    port = address.removesuffix("/").rpartition(":")[2].partition("/")[0]
    for connection in psutil.net_connections("tcp") if port.isdigit() else ():
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port):
            return int(connection.pid) if connection.pid else None
    return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def environment() -> dict[str, str]:
    """The environment without a server's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SHARDHASH_", "HASHSERVER_"))}


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has spent, all threads together."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) answers for a process on Linux
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def busy_seconds() -> float:
    """Seconds of CPU that the whole machine has spent so far, in ticks of 10 ms."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # guests count as user too


def peak_memory(pid: int) -> float:
    """MiB: the most that a process ever held."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> float:
    """MiB, by a field of the kernel's account of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))
