"""The disk of the database is full: reports are refused in words, lookups go on, nothing acknowledged is lost.

The database lies in a file system of its own, in memory. To make one takes rights that not every machine gives.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shardhash.client import create_client
from shardhash.errors import InvokeError
from shardhash.stores.postgresql.schema import migrate
from tests.servers import ServerProcess
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql
from tests.stores.test_postgresql_faults import ask_as_a_build

M = "m"
SMALL, LARGE = "24m", "96m"
MOST = 2000
"""Reports of 100 KB that it never takes."""
pytestmark = pytest.mark.skipif(find_postgresql() is None, reason="there is no PostgreSQL here")


def mount(*arguments: str) -> bool:
    program = shutil.which(arguments[0])
    return program is not None and subprocess.run([program, *arguments[1:]], check=False).returncode == 0


@pytest.fixture
def small_disk(postgresql: PostgresqlServer) -> Iterator[Path]:
    folder = postgresql.folder / f"small-{secrets.token_hex(3)}"
    folder.mkdir()
    if not mount("mount", "-t", "tmpfs", "-o", f"size={SMALL}", "shardhash-test", str(folder)):
        pytest.skip("no file system can be mounted here")
    try:
        shutil.chown(folder, (postgresql.data / "PG_VERSION").owner())
        yield folder
    finally:
        mount("umount", "--lazy", str(folder))


def test_a_full_disk_of_the_database(
    postgresql: PostgresqlServer,
    small_disk: Path,
    start_server: Callable[..., ServerProcess],
) -> None:
    name = f"small_{secrets.token_hex(3)}"
    postgresql.execute(f"create tablespace {name} location '{small_disk}'")
    postgresql.execute(f"create database {name} tablespace {name}")
    url = postgresql.url(name)
    asyncio.run(migrate(url))
    server = start_server(binds=["ws://127.0.0.1:0", "127.0.0.1:0"], environment={"SHARDHASH_STORE": url})
    stored: list[str] = []

    def report() -> None:
        taskhash = secrets.token_hex(32)
        details = {"outhash_siginfo": secrets.token_hex(50_000)}
        client.report_unihash(taskhash, M, secrets.token_hex(32), taskhash, details)
        stored.append(taskhash)

    def report_until_refused() -> None:
        for _ in range(MOST):
            report()

    try:
        with create_client(server.address) as client:
            with pytest.raises(InvokeError, match="the database refused: could not extend file"):
                report_until_refused()
            assert stored
            hashes = {name: secrets.token_hex(32) for name in ("taskhash", "outhash", "unihash")}
            asked = {"report": {"method": M, "outhash_siginfo": secrets.token_hex(50_000), **hashes}}
            assert ask_as_a_build(server.addresses[1], asked) == b"", "closed without a word, so that the build goes on"
            assert client.get_unihash_batch([(M, taskhash) for taskhash in stored]) == stored
            assert client.get_taskhash(M, stored[-1], True) is not None
            with pytest.raises(InvokeError, match="the database refused"):
                report_until_refused()
            assert mount("mount", "-o", f"remount,size={LARGE}", str(small_disk))
            report()
            assert client.get_unihash_batch([(M, taskhash) for taskhash in stored]) == stored
            log = server.log.read()
            assert "could not extend file" in log
            assert "Traceback" not in log
        assert server.stop() == 0
    finally:
        server.stop()
        with suppress(Exception):  # the folder goes with the server anyway
            postgresql.execute(f"drop database {name} with (force)")
            postgresql.execute(f"drop tablespace {name}")
