"""How long a move takes: the import of a database of the stock server, the same again, and the export.

python -m perf.moving --rows 1000000 --siginfo 2000

The database is written first, with a mapping and an outhash row for each task, and siginfo that compresses as that of
builds does: names and modes repeat, hashes do not. Memory is the largest of the importing process and its helpers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from perf import report, servers

METHOD = "oe.sstatesig.OEOuthashBasic"
_RECIPES = 997
_TABLES = """
create table unihashes_v3 (id integer primary key autoincrement, method text not null, taskhash text not null,
    unihash text not null, gc_mark text not null, unique(method, taskhash));
create table outhashes_v2 (id integer primary key autoincrement, method text not null, taskhash text not null,
    outhash text not null, created datetime, owner text, PN text, PV text, PR text, task text, outhash_siginfo text,
    unique(method, taskhash, outhash));
"""
_SPEED = ("journal_mode = off", "synchronous = off", "cache_size = -1000000")


def main() -> int:
    """Run it; the exit status is 1 if a command failed."""
    parser = argparse.ArgumentParser(
        "perf.moving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="mappings, and outhash rows (default 1000000)")
    parser.add_argument("--siginfo", type=int, default=2000, help="characters of siginfo of each (default 2000)")
    parser.add_argument("--folder", type=Path, help="where to work, 4 GB for the defaults (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="shardhash-perf-", dir=options.folder) as folder:
        try:
            figures = measure(Path(folder), options.rows, options.siginfo)
        except subprocess.CalledProcessError as error:
            print(f"perf.moving: {error}", file=sys.stderr)
            return 1
    for name, found in figures.items():
        print(
            f"{name}: {found['seconds']:.1f} s, {found['cpu']:.1f} s of CPU, {found['memory'] >> 20} MiB;"
            f" {found['others']:.0%} of the machine went to others"
        )
    if options.json:
        report.save(options.json, {**report.setting(), "options": report.plain(options), "moving": figures})
    return 0


def measure(folder: Path, rows: int, siginfo: int) -> dict[str, dict[str, Any]]:
    """Seconds, CPU seconds and bytes of memory of each command."""
    database, data, out = (str(folder / name) for name in ("old.db", "data", "new.db"))
    # In a process of its own: what it takes in memory would count for the commands, which begin as copies of this one.
    writer = multiprocessing.get_context("spawn").Process(target=write_database, args=(Path(database), rows, siginfo))
    writer.start()
    writer.join()
    os.sync()
    commands = {
        "import": ["import", database, "--data", data],
        "import again": ["import", database, "--data", data],
        "export": ["export", out, "--data", data],
    }
    return {name: _run(arguments) for name, arguments in commands.items()}


def _run(arguments: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "shardhash", *arguments], cwd=servers.ROOT, env=servers.environment()
    )
    before = busy_seconds()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    seconds = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    others = (busy_seconds() - before - cpu) / seconds / (os.cpu_count() or 1)
    return {"seconds": seconds, "cpu": cpu, "memory": usage.ru_maxrss << 10, "others": round(max(0.0, others), 3)}


def busy_seconds() -> float:
    """CPU seconds that this machine has spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def write_database(path: Path, rows: int, siginfo: int) -> None:
    """A database of the stock server."""
    with closing(sqlite3.connect(path)) as connection:
        for setting in _SPEED:
            connection.execute(f"pragma {setting}")
        connection.executescript(_TABLES)
        connection.executemany(
            "insert into unihashes_v3 (method, taskhash, unihash, gc_mark) values (?, ?, ?, '')",
            ((METHOD, taskhash, unihash) for taskhash, unihash, _, _ in _tasks(rows)),
        )
        connection.executemany(
            "insert into outhashes_v2 (method, taskhash, outhash, created, PN, PV, task, outhash_siginfo)"
            " values (?, ?, ?, ?, ?, '1.0', 'do_compile', ?)",
            (
                (
                    METHOD,
                    taskhash,
                    outhash,
                    f"2025-0{1 + number % 9}-01 10:00:{number % 60:02}.{number % 1_000_000:06}",
                    f"recipe-{number % _RECIPES}",
                    _siginfo(number, siginfo),
                )
                for taskhash, _, outhash, number in _tasks(rows)
            ),
        )
        connection.commit()


def _tasks(rows: int) -> Iterator[tuple[str, str, str, int]]:
    """taskhash, unihash, outhash and number of each task; the same each time."""
    dice = random.Random(1)
    for number in range(rows):
        digests = dice.randbytes(96).hex()
        yield digests[:64], digests[64:128] if number % 3 else digests[:64], digests[128:], number
        if number % 50_000 == 0:
            report.progress(f"writing the database: {number:,} of {rows:,}", number / rows)
    report.clear_progress()


def _siginfo(number: int, size: int) -> str:
    dice = random.Random(number)
    lines = ["OEOuthashBasic", "18", f"SSTATE_PKGSPEC=sstate:recipe-{number % _RECIPES}::1.0:r0::14:", "task=compile"]
    length = sum(map(len, lines))
    while length < size:
        hashed, name = dice.randbytes(32).hex(), f"./usr/lib/part-{number % 89}/file-{len(lines)}.so"
        lines.append(f"-rw-r--r--  root  root  {dice.randrange(100_000):10} {hashed} {name}")
        length += len(lines[-1]) + 1
    return "\n".join(lines)[:size]


if __name__ == "__main__":
    sys.exit(main())
