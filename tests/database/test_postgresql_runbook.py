"""The runbook of servers on PostgreSQL is walked through literally, against a real database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardhash.client import create_client
from tests.servers import ROOT, ServerProcess
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql

pytestmark = pytest.mark.once

METHOD = "m"


def sections() -> dict[str, list[str]]:
    """The blocks under each heading."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", (ROOT / "ops" / "postgresql.md").read_text(), flags=re.MULTILINE)[1:]:
        found[part.split("\n", 1)[0]] = re.findall(r"^```sh\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
    return found


class Shell:
    """Runs blocks."""

    def __init__(self, folder: Path, url: str, **variables: str) -> None:
        programs = folder / "bin"
        programs.mkdir()
        (programs / "shardhash").write_text(f'#!/bin/sh\nexec {sys.executable} -m shardhash "$@"\n')
        (programs / "shardhash").chmod(0o755)
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("SHARDHASH_", "HASHSERVER_"))}
        self.walked: set[str] = set()
        self.environment = kept | {
            "PATH": f"{programs}:{find_postgresql()}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SHARDHASH_STORE": url,
            "BACKUPS": str(folder / "backups"),
            **variables,
        }

    def walk(self, heading: str, **variables: str) -> list[str]:
        """What each block under a heading prints; all must succeed."""
        self.walked.add(heading)
        return [self._run(block, variables) for block in sections()[heading]]

    def _run(self, block: str, variables: dict[str, str]) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=ROOT,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout


def test_the_runbook(tmp_path: Path, postgresql: PostgresqlServer, start_server: Callable[..., ServerProcess]) -> None:
    hashes = [f"{number:064x}" for number in range(50)]
    old = start_server("--data", str(tmp_path / "data"), "--workers", "1")
    with create_client(old.address) as client:
        client.report_unihash_batch({"method": METHOD, "taskhash": h, "outhash": h, "unihash": h} for h in hashes)
    assert old.stop() == 0
    url = postgresql.create_database()
    shell = Shell(tmp_path, url, SHARDHASH_DATA=str(tmp_path / "data"))
    shell.walk("Beyond one machine: servers on a PostgreSQL database")
    made, copied = shell.walk("Setting up")
    assert "have version" in made
    assert "50 mappings, 50 outhash rows; read back and found the same" in copied
    servers = [start_server(environment={"SHARDHASH_STORE": url}) for _ in range(2)]
    looked = "".join(shell.walk("First look", ADDRESS=servers[1].address))
    assert "50" in looked
    assert "127.0.0.1" in looked
    assert "outrow" in looked
    shell.walk("What servers remember of each other")
    dumped, saved, restored = shell.walk("Backup")
    assert int(dumped) >= 5
    assert "read back and found the same" in saved
    assert "no damage" in saved
    assert not restored
    for server in servers:
        assert server.stop() == 0
    server = start_server(environment={"SHARDHASH_STORE": url})
    with create_client(server.address) as client:
        assert client.get_unihash_batch([(METHOD, h) for h in hashes]) == hashes
    assert shell.walked == {heading for heading, blocks in sections().items() if blocks}
