"""One store beside the other: worker processes with their own files, and a PostgreSQL database of one or two servers.

    python -m perf.beyond                        # some minutes
    python -m perf.beyond --quick                # a trial, whose figures mean nothing

The database is one of its own, on this machine, with fsync on; so is everything that it is measured beside. Where
BITBAKE_DIR names a checkout of BitBake, and sqlalchemy and asyncpg are installed, its server runs on the same database.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.reporters import BATCH, BatchedReports, Reports
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError
from shardhash.stores.postgresql.schema import migrate
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql

DATABASE_SETTINGS = ("shared_buffers=256MB", "max_wal_size=4GB", "wal_compression=on")

Asked = Workload | Reports | BatchedReports


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    if find_postgresql() is None:
        print("perf.beyond: there is no PostgreSQL here: apt-get install postgresql", file=sys.stderr)
        return 1
    figures: dict[str, Any] = {**report.setting(), "options": report.plain(options)}
    try:
        figures["contenders"] = {name: _measure(name, options) for name in options.contenders}
    except (WrongAnswerError, OSError, RuntimeError) as error:
        report.clear_progress()
        print(f"perf.beyond: {error}", file=sys.stderr)
        return 1
    _show(figures["contenders"])
    if options.json:
        report.save(options.json, figures)
    return 0


def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every shape, against one contender."""
    few = options.quick
    block = Workload(shape="block", lookups=500 if few else 9000)
    shapes: dict[str, tuple[str, Asked]] = {
        "block9000": ("native", block),
        "waves": ("stream", Workload(shape="waves", lookups=300 if few else 0)),
        "reports": ("report", Reports(20 if few else 300)),
        "batched": ("report-batch", BatchedReports(2 if few else 10)),
    }
    found: dict[str, Any] = {}
    with CONTENDERS[name]() as some:
        if not some:
            return found
        asyncio.run(seeding.report(_address(some[0]), Workload(shape="waves")))
        for shape, (client, asked) in shapes.items():
            if client.endswith(("batch", "native")) and name == "reference":
                continue
            found[shape] = _compare(f"{name}: {shape}", some, client, asked, options)
            if shape == "batched":
                for count in ("lookups", "lookups_per_second"):
                    found[shape][count] *= BATCH
    return found


def _address(server: Server) -> str:
    return server.addresses.get("ws") or server.addresses["tcp"]


def _compare(title: str, some: list[Server], client: str, asked: Asked, options: argparse.Namespace) -> dict[str, Any]:
    """The builders, divided among the servers, which all are asked at the same time."""
    steps = asked.steps()
    count = sum(map(len, steps)) if isinstance(steps, list) else len(steps)
    builders = options.builders // len(some)
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        processes = options.processes  # two at least: the barrier of one alone, beside another, does not let it go
        pools = [stack.enter_context(Pool(server, client, asked, builders, processes)) for server in some]
        runs: list[list[Run]] = []
        for number in range(options.rounds + 1):
            report.progress(title, number / (options.rounds + 1))
            runs.append(list(threads.map(lambda pool: pool.run(), pools)))
    report.clear_progress()
    summaries = [report.summary(list(of_one), count * builders) for of_one in zip(*runs[1:], strict=True)]
    if len(summaries) == 1:
        return summaries[0]
    seconds = max(one["seconds"] for one in summaries)
    lookups = sum(one["lookups"] for one in summaries)
    return {"lookups": lookups, "seconds": seconds, "lookups_per_second": lookups / seconds, "servers": summaries}


@contextmanager
def _embedded() -> Iterator[list[Server]]:
    with servers.shardhash(1, durable=True) as server:
        yield [server]


@contextmanager
def _on_database(count: int) -> Iterator[list[Server]]:
    with PostgresqlServer(*DATABASE_SETTINGS, fsync=True) as database, ExitStack() as stack:
        url = database.create_database()
        asyncio.run(migrate(url))
        yield [stack.enter_context(servers.shardhash_on_database(url)) for _ in range(count)]


@contextmanager
def _reference() -> Iterator[list[Server]]:
    with PostgresqlServer(*DATABASE_SETTINGS, fsync=True) as database:
        url = database.create_database().replace("postgresql://", "postgresql+asyncpg://")
        server = servers.reference(url)
        if server is None:
            yield []
            return
        with server:
            yield [server]


CONTENDERS = {
    "embedded": _embedded,
    "postgresql": lambda: _on_database(1),
    "two servers": lambda: _on_database(2),
    "reference": _reference,
}
"""Each starts what is measured, and yields its servers."""


def _show(contenders: dict[str, Any]) -> None:
    rows = []
    for name, shapes in contenders.items():
        for shape, found in shapes.items():
            rows.append([name, shape, f"{found['seconds']:.3f} s", f"{found['lookups_per_second']:,.0f}/s"])
    print(report.table(["contender", "shape", "time", "rate"], rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "perf.beyond", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--builders", type=int, default=40, help="connections (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="processes that they are divided among (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measured runs; medians are shown (default 3)")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
