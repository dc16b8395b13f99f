"""A PostgreSQL server for tests: Debian's, in a temporary folder, as a user without privileges.

It is looked for in PATH and where Debian keeps it. Where there is none, `find_postgresql` says so, and the tests that
need it are skipped with that reason.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from tests.servers import free_port

PASSWORD = "s3cret-word"
LIMIT = 60
"""Seconds until a server that does not start or stop has failed."""
_UNPRIVILEGED = ("postgres", "nobody")


def find_postgresql() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name)):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class PostgresqlServer:
    """A running server on a port of 127.0.0.1; its folder goes with it. `settings` are ``name=value``."""

    def __init__(self, *settings: str, standby_of: PostgresqlServer | None = None, fsync: bool = False) -> None:
        programs = find_postgresql()
        assert programs is not None, "ask find_postgresql first"
        self._programs = programs
        self._user = None if os.getuid() else next(name for name in _UNPRIVILEGED if _exists(name))
        self.folder = Path(tempfile.mkdtemp(prefix="shardhash-pg-", dir="/tmp"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self.port = free_port()
        self._names = count(1)
        self._settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            f"fsync={'on' if fsync else 'off'}",
            "shared_buffers=64MB",
            "max_connections=80",
            "log_min_messages=fatal",
            *settings,
        ]
        if standby_of is None:
            self._initialize()
        else:
            self._copy(standby_of)
        self.start()

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def url(self, database: str = "postgres", *, password: bool = True) -> str:
        """The address of a database."""
        secret = f":{PASSWORD}" if password else ""
        return f"postgresql://tester{secret}@127.0.0.1:{self.port}/{database}"

    def create_database(self, like: str = "/template1") -> str:
        """The URL of a new database: empty, or a copy of that of another URL."""
        name = f"test_{next(self._names)}_{secrets.token_hex(3)}"
        self.execute(f"create database {name} template {like.rpartition('/')[2]}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple]:
        """Run a statement; its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = " ".join(f"-c {setting}" for setting in self._settings)
        self._run("pg_ctl", "start", "-w", "-t", str(LIMIT), "-l", str(self.folder / "log"), "-o", options)

    def stop(self, how: str = "fast") -> None:
        """Stop it: "smart", "fast", or "immediate", which is a crash."""
        self._run("pg_ctl", "stop", "-w", "-t", str(LIMIT), "-m", how)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-w", "-t", str(LIMIT))

    def kill(self) -> None:
        """End it as a loss of power would, all of its processes at once."""
        os.killpg(self._leader(), signal.SIGKILL)

    def running(self) -> bool:
        """Whether it runs."""
        return (self.data / "postmaster.pid").exists()

    def _leader(self) -> int:
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def _initialize(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(secret, self._user)
        self._run(
            "initdb", "-U", "tester", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "--locale=C", "-N"
        )
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("host replication all 127.0.0.1/32 scram-sha-256\n")

    def _copy(self, primary: PostgresqlServer) -> None:
        source = primary.url().replace("/postgres", f"/?application_name=standby{self.port}")
        self._run("pg_basebackup", "-d", source, "-R", "-X", "stream", "-c", "fast", data="-D")

    def _run(self, program: str, *arguments: str, data: str = "-D") -> None:
        command = [str(self._programs / program), data, str(self.data), *arguments]
        done = subprocess.run(
            command,
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.DEVNULL,
            timeout=LIMIT + 30,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise AssertionError(f"{command} ended with {done.returncode}: {log.read_text() if log.exists() else ''}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
