"""The runbook is walked through literally: its blocks run as they stand, against a real server in real trouble."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardhash.client import create_async_client

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
METHOD = "m"
INSTALLED = {"ops/runbook.md", "ops/restore-snapshot"}

SYSTEMCTL = """#!/usr/bin/env bash
# The unit `shardhash`, without systemd.
running() { [ -s "$STATE/pid" ] && kill -0 "$(cat "$STATE/pid")" 2>/dev/null; }
case $1 in
    start)
        rm -f "$STATE/out" && mkfifo "$STATE/out"
        workers=$(sed -n 's/^Environment=SHARDHASH_WORKERS=//p' "$STATE/unit/workers.conf" 2>/dev/null || echo 2)
        shardhash serve --bind "unix://$STATE/socket" --workers "$workers" 2>>"$STATE/log" >"$STATE/out" &
        echo $! >"$STATE/pid"
        grep -q -m 1 listening <"$STATE/out" || { wait $!; exit 1; } ;;
    stop) running && kill "$(cat "$STATE/pid")" && tail --pid="$(cat "$STATE/pid")" -f /dev/null; exit 0 ;;
    restart) "$0" stop; "$0" start ;;
    status) running ;;
    daemon-reload) ;;
esac
"""
COMMANDS = {
    "systemctl": SYSTEMCTL,
    "journalctl": '#!/bin/sh\ntail -n 20 "$STATE/log"\n',
    "crontab": '#!/bin/sh\n[ "$1" = -l ] && exec cat "$STATE/crontab"\ncat >"$STATE/crontab.new"\n'
    'mv "$STATE/crontab.new" "$STATE/crontab"\n',
    "rsync": '#!/bin/sh\nmkdir -p "$STATE/newmachine" && cp -a "$2" "$STATE/newmachine/move"\n',
    "shardhash": f'#!/bin/sh\nexec {sys.executable} -m shardhash "$@"\n',
}


def sections() -> dict[str, list[str]]:
    """The blocks under each heading of the runbook."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", (ROOT / "ops" / "runbook.md").read_text(), flags=re.MULTILINE)[1:]:
        found[part.split("\n", 1)[0]] = re.findall(r"^```sh\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
    return found


class Machine:
    """A machine with the unit `shardhash`."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.state = folder
        self.walked: set[str] = set()
        commands = folder / "bin"
        commands.mkdir()
        for name, text in COMMANDS.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("SHARDHASH_", "HASHSERVER_"))}
        self.environment = kept | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "STATE": str(folder),
            "SHARDHASH_DATA": str(self.data),
            "BACKUPS": str(folder / "backups"),
        }

    def run(self, text: str, status: int = 0, **variables: str) -> str:
        """Run a text in a shell in the folder of the runbook; what it printed."""
        with (self.state / "printed").open("w+") as printed:  # no pipe, which the server would keep open
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=ROOT / "ops",
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=120,
                check=False,
            )
            printed.seek(0)
            said = printed.read()
        assert done.returncode == status, f"{text}\n{said}"
        return said

    def walk(self, heading: str, *statuses: int, **variables: str) -> list[str]:
        """Run all blocks under a heading, which must end with these statuses (default: 0)."""
        blocks = sections()[heading]
        self.walked.add(heading)
        expected = statuses or (0,) * len(blocks)
        return [self.run(block, status, **variables) for block, status in zip(blocks, expected, strict=True)]

    def report(self, first: int, last: int) -> None:
        asyncio.run(self._report(range(first, last)))

    def known(self, count: int) -> int:
        """How many of so many reports a lookup finds."""
        return asyncio.run(self._known(count))

    async def _report(self, numbers: range) -> None:
        async with await create_async_client(f"unix://{self.state}/socket") as client:
            for number in numbers:
                await client.report_unihash(hash_of(number), METHOD, hash_of(number), hash_of(number), {"PN": "p"})

    async def _known(self, count: int) -> int:
        async with await create_async_client(f"unix://{self.state}/socket") as client:
            found = await client.get_unihash_batch([(METHOD, hash_of(number)) for number in range(count)])
            return sum(unihash is not None for unihash in found)


def hash_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" * 2


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.run("systemctl start shardhash")
    yield made
    made.run("systemctl stop shardhash")


def test_the_runbook(machine: Machine) -> None:
    machine.walk("Runbook: the hash equivalence server is in trouble")
    machine.report(0, 40)
    machine.walk("Before there is trouble")
    assert (machine.state / "crontab").read_text() == f"17 3 * * * {machine.state}/backups/daily\n"
    machine.walk("A snapshot now")
    machine.report(40, 60)
    machine.walk("First look")
    assert machine.walk("Disk full")[1].endswith("2 snapshots are written\n")
    assert "AnonHugePages" in machine.walk("Lookups are slow in a large table")[0]
    machine.walk("In use")
    assert f"unix://{machine.state}/backups/edge/edge.sock" in machine.walk("An edge, started when builds need it")[0]
    assert "peer_requests=2000" in machine.walk("A public server")[0]
    assert machine.known(60) == 60

    moment = datetime.now(UTC).isoformat()
    machine.report(60, 80)
    machine.walk("Going back in time", 0, 0, WHEN=moment)
    assert machine.known(80) == 80  # back in time, and back from there

    dry, done, again = machine.walk("Restoring a backup", DAY="monday")
    assert "nothing was changed" in dry
    assert "verified" in done
    assert "verified" in again
    assert machine.known(80) == 40

    machine.report(40, 60)
    machine.run("systemctl stop shardhash")
    damage(machine.data)
    machine.run("systemctl start shardhash", 1)
    assert "shardhash repair --data DIR" in machine.walk("First look")[0]
    seen, found, repaired = machine.walk("Damage", 1, 1, 0)
    assert "at byte 20" in seen
    assert "lost: " in found
    assert "nothing was changed" in found
    assert "everything that was there is kept" in repaired
    assert machine.known(60) >= 59  # the one record that is lost may be an index item, which is made anew

    machine.walk("More workers", UNIT=str(machine.state / "unit"), WORKERS="3")
    assert machine.known(60) >= 59
    assert "no damage: 3 shards" in machine.run("shardhash verify")

    there = machine.state / "there"
    here, moved = sections()["Moving to another machine"]
    machine.run(here)
    machine.run(moved, SHARDHASH_DATA=str(there), BACKUPS=str(machine.state / "newmachine"))
    machine.walked.add("Moving to another machine")
    assert machine.known(60) >= 59
    machine.run("systemctl stop shardhash; systemctl start shardhash")

    assert "no damage" in machine.walk("A failing disk")[0]
    assert machine.walked == {heading for heading, blocks in sections().items() if blocks}


def damage(data: Path) -> None:
    """Change a byte of the first record of a log."""
    path = next(path for path in sorted(data.glob("generation-*/shard-*/log-*.log")) if path.stat().st_size > 20)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "--data is missing"),
        ("--data x", "name a backup"),
        ("--data", "needs a value"),
        ("--what", "no option"),
        ("--data x --from nosuch", "there is no folder nosuch\n"),
        ("--data nosuch --until 2026-11-23", "there is no folder nosuch\n"),
    ],
)
def test_restore_snapshot_says_what_is_due(arguments: str, words: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert words in machine.run(f"unset SHARDHASH_DATA; ./restore-snapshot {arguments}", 2)


def test_the_runbook_is_installed_with_its_script() -> None:
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {str(Path(target).parent) for source, target in shared["shared-data"].items() if source in INSTALLED}
    assert folders == {"share/shardhash"}
    scripts = re.findall(r"\./([a-z-]+)", (ROOT / "ops" / "runbook.md").read_text())
    assert {f"ops/{name}" for name in scripts} < INSTALLED
