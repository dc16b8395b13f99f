"""The unit and its socket under a real systemd: a manager in a mount namespace and control groups of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from shardhash.client import create_client
from tests.servers import free_port

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "ops" / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = [Path("/sys/fs/cgroup") / name for name in ("systemd", "unified", ".")]
BEGIN = """
for group in "$@"; do mkdir "$group" && echo $$ >"$group/cgroup.procs"; done
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0 || exit 77
exec env -i PATH="$PATH" HOME="$HOME" XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_LOG_TARGET=console SYSTEMD_EXEC_LOG=1 \\
    /lib/systemd/systemd --user
"""
"""Begins the manager, in the groups that are its arguments. systemd wants to see that it booted the machine."""
NAMESPACES = (
    "ProtectHome", "PrivateTmp", "ProtectSystem", "PrivateDevices", "ProtectControlGroups", "ProtectHostname",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
)  # fmt: skip
"""Settings of the unit that this manager cannot keep, in a mount namespace of its own. The others hold."""
PATIENCE = 30.0


class Manager:
    """A systemd of the test's own."""

    def __init__(self, home: Path) -> None:
        name = f"shardhash-{secrets.token_hex(4)}"  # the same in all hierarchies, or systemd makes it the same
        self._groups = [group / name for group in CGROUPS if (group / "cgroup.procs").exists()]
        self.home = home
        self.units = home / ".config" / "systemd" / "user"
        self.units.mkdir(parents=True)
        with (home / "systemd.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", BEGIN, "sh", *map(str, self._groups)],
                env=os.environ | {"HOME": str(home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *arguments: str, check: bool = True) -> str:
        """What systemctl prints."""
        command = ["nsenter", "-t", str(self._process.pid), "-m", "env", "XDG_RUNTIME_DIR=/run/user/0"]
        done = subprocess.run(
            [*command, "systemctl", "--user", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, name: str, unit: str = "shardhash.service") -> str:
        """A property of a unit."""
        return self.run("show", "--value", "--property", name, unit)

    def begin(self) -> bool:
        """Wait until it answers; whether it does."""
        end = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < end:
            if self.run("list-units", check=False):
                return True
            time.sleep(0.1)
        return False

    def close(self) -> None:
        """End all units and the manager."""
        with contextlib.suppress(Exception):
            self.run("stop", "shardhash*.socket", "shardhash*.service", check=False)
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end = time.monotonic() + PATIENCE
        while any(group.exists() for group in self._groups) and time.monotonic() < end:  # until all have ended
            for group in self._groups:
                for folder, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(folder).rmdir()
            time.sleep(0.05)


@pytest.fixture
def manager() -> Iterator[Manager]:
    if os.geteuid() != 0 or not SYSTEMD.exists() or not all(map(shutil.which, ("unshare", "nsenter", "systemctl"))):
        pytest.skip("it takes systemd, and the rights to begin one: apt-get install systemd")
    with TemporaryDirectory(prefix="home-") as home:  # a short name: there are sockets below
        manager = Manager(Path(home))
        try:
            if not manager.begin():
                pytest.skip("systemd does not run here: " + (manager.home / "systemd.log").read_text()[-500:])
            yield manager
        finally:
            manager.close()


def install(manager: Manager, data: Path, port: int, *lines: str) -> None:
    """Our units, with the addresses, the folder and the interpreter of the test."""
    unit = (UNITS / "shardhash.service").read_text()
    (manager.units / "shardhash.service").write_text(unit)
    (manager.units / "shardhash.socket").write_text(
        (UNITS / "shardhash.socket").read_text().replace("=8686", f"=127.0.0.1:{port}")
    )
    settings = data.with_suffix(".toml")
    settings.write_text(f'bind = ["127.0.0.1:{port}"]\ndata = "{data}"\nworkers = 1\n')
    changes = manager.units / "shardhash.service.d"
    changes.mkdir()
    (changes / "test.conf").write_text(
        "\n".join(
            (
                "[Unit]",
                "RequiresMountsFor=",
                "[Service]",
                "User=",
                "Group=",
                "StateDirectory=",
                "RuntimeDirectory=",
                f"WorkingDirectory={data.parent}",
                "EnvironmentFile=",
                f"Environment=PYTHONPATH={ROOT}",
                "ExecStart=",
                f"ExecStart={sys.executable} -m shardhash serve --config {settings}",
                *(f"{name}=no" for name in NAMESPACES),
                "ProtectProc=default",
                f"StandardError=append:{data}.log",
                "RestartSec=100ms",
                *lines,
                "",
            )
        )
    )
    manager.run("daemon-reload")


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_a_unit_is_ready_when_it_serves_and_ends_in_order(manager: Manager, tmp_path: Path) -> None:
    port = free_port()
    install(manager, tmp_path / "data", port)
    manager.run("start", "shardhash.service")
    with create_client(f"127.0.0.1:{port}") as client:
        assert client.report_unihash("1" * 64, "m", "2" * 64, "3" * 64)["unihash"] == "3" * 64
    assert f"127.0.0.1:{port}" in manager.show("StatusText")
    (tmp_path / "data.toml").write_text((tmp_path / "data.toml").read_text() + 'log = "DEBUG"\n')
    manager.run("reload", "shardhash.service")
    assert manager.show("ActiveState") == "active"
    manager.run("stop", "shardhash.service")
    assert (manager.show("Result"), manager.show("ExecMainStatus")) == ("success", "0")
    manager.run("start", "shardhash.service")
    with create_client(f"127.0.0.1:{port}") as client:
        assert client.get_unihash("m", "1" * 64) == "3" * 64


def test_a_socket_holds_builders_until_the_server_is_up(manager: Manager, tmp_path: Path) -> None:
    port = free_port()
    install(manager, tmp_path / "data", port)
    manager.run("start", "shardhash.socket")
    assert manager.show("ActiveState") == "inactive"
    with socket.create_connection(("127.0.0.1", port), 5) as waiting:
        waiting.settimeout(PATIENCE)
        waiting.sendall(b'OEHASHEQUIV 1.1\n\n{"ping": {}}\n')
        assert b"alive" in waiting.recv(100)
    until(lambda: manager.show("ActiveState") == "active", "not up")


def test_a_server_that_stands_still_is_started_again(manager: Manager, tmp_path: Path) -> None:
    port = free_port()
    install(manager, tmp_path / "data", port, "WatchdogSec=2s", "TimeoutAbortSec=1s", "LimitCORE=0")
    manager.run("start", "shardhash.service")
    first = int(manager.show("MainPID"))
    os.kill(first, signal.SIGSTOP)
    until(lambda: int(manager.show("NRestarts")) >= 1, "no restart")
    until(lambda: manager.show("ActiveState") == "active", "not up again")
    assert int(manager.show("MainPID")) != first
    with create_client(f"127.0.0.1:{port}") as client:
        assert client.ping() == {"alive": True}


def test_damaged_data_is_no_restart_loop(manager: Manager, tmp_path: Path) -> None:
    data = tmp_path / "data"
    install(manager, data, free_port())
    manager.run("start", "shardhash.service")
    manager.run("stop", "shardhash.service")
    (data / "manifest.json").write_text("{}")
    manager.run("start", "shardhash.service", check=False)
    until(lambda: manager.show("ActiveState") == "failed", "it goes on trying")
    assert (manager.show("ExecMainStatus"), manager.show("NRestarts")) == ("3", "0")


def test_the_users_units_start_a_server_when_it_is_needed(manager: Manager) -> None:
    for unit in UNITS.glob("shardhash-edge.*"):
        program = f"{sys.executable} -m shardhash"
        (manager.units / unit.name).write_text(unit.read_text().replace("%h/.local/bin/shardhash", program))
    settings = manager.home / ".config" / "shardhash-edge"
    settings.write_text(f"PYTHONPATH={ROOT}\nSHARDHASH_EDGE_IDLE=1s\n")
    manager.run("daemon-reload")
    manager.run("start", "shardhash-edge.socket")
    address = f"unix://{manager.home}/.local/state/shardhash/edge.sock"
    for expected in (None, "3" * 64):
        assert manager.show("ActiveState", "shardhash-edge.service") == "inactive"
        with create_client(address) as client:
            assert client.get_unihash("m", "1" * 64) == expected
            assert client.report_unihash("1" * 64, "m", "2" * 64, "3" * 64)["unihash"] == "3" * 64
            assert manager.show("ActiveState", "shardhash-edge.service") == "active"
        until(lambda: manager.show("ActiveState", "shardhash-edge.service") == "inactive", "it goes on")
    assert manager.show("ActiveState", "shardhash-edge.socket") == "active"
