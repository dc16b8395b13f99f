"""Beyond one machine: worker processes beside a PostgreSQL database of one or two servers, and an edge (perf/edge.py).

    python -m perf.beyond                        # some minutes
    python -m perf.beyond --contenders edge      # the edge alone, which needs no PostgreSQL
    python -m perf.beyond --quick                # a trial, whose figures mean nothing

"cold" is a server that remembers no answers: it asks the database for every lookup.
The database is one of its own, on this machine, with fsync on; so is everything that it is measured beside. Where
BITBAKE_DIR names a checkout of BitBake, and sqlalchemy and asyncpg are installed, its server runs on the same database.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from perf import edge, report, seeding, servers
from perf.pool import Pool
from perf.reporters import BatchedReports, Reports, count_of
from perf.servers import Server
from perf.workload import Workload, WrongAnswerError
from shardhash.stores.postgresql.schema import migrate
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql

EDGE = "edge"
DATABASE_SETTINGS = ("shared_buffers=256MB", "max_wal_size=4GB", "wal_compression=on")

Asked = Workload | Reports | BatchedReports


def main() -> int:
    """Run it; the exit status is 1 if an answer was wrong."""
    options = _parser().parse_args()
    if options.contenders != [EDGE] and find_postgresql() is None:
        print("perf.beyond: there is no PostgreSQL here: apt-get install postgresql", file=sys.stderr)
        return 1
    figures: dict[str, Any] = {**report.setting(), "options": report.plain(options)}
    try:
        figures["contenders"] = {}
        for name in options.contenders:
            if name == EDGE:
                figures[EDGE] = edge.measure(options)
            else:
                figures["contenders"][name] = _measure(name, options)
            if options.json:
                report.save(options.json, figures)
    except (WrongAnswerError, OSError, RuntimeError) as error:
        report.clear_progress()
        print(f"perf.beyond: {error}", file=sys.stderr)
        return 1
    if figures["contenders"]:
        _show(figures["contenders"])
    if EDGE in figures:
        edge.show(figures[EDGE])
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
        addresses = some[0].addresses
        if name != "reference":
            asyncio.run(seeding.report(addresses["ws"], Workload(shape="waves")))
        for shape, (client, asked) in shapes.items():
            if shape not in SHAPES.get(name, shapes):
                continue
            found[shape] = _compare(f"{name}: {shape}", some, client, asked, options)
    return found


def _compare(title: str, some: list[Server], client: str, asked: Asked, options: argparse.Namespace) -> dict[str, Any]:
    """The builders, divided among the servers."""
    with Pool(_as_one(some), client, asked, options.builders, options.processes) as pool:
        runs = []
        for number in range(options.rounds + 1):
            report.progress(title, number / (options.rounds + 1))
            runs.append(pool.run())
    report.clear_progress()
    return report.summary(runs[1:], count_of(asked.steps()) * options.builders)


def _as_one(some: list[Server]) -> Server:
    """Several servers as the pool takes them: all addresses of a kind in one text."""
    kinds = some[0].addresses
    return Server(
        {kind: " ".join(server.addresses[kind] for server in some) for kind in kinds},
        {role: [pid for server in some for pid in server.roles[role]] for role in some[0].roles},
    )


@contextmanager
def _embedded() -> Iterator[list[Server]]:
    with servers.shardhash(1, durable=True) as server:
        yield [server]


@contextmanager
def _on_database(count: int, *arguments: str) -> Iterator[list[Server]]:
    with PostgresqlServer(*DATABASE_SETTINGS, fsync=True) as database, ExitStack() as stack:
        url = database.create_database()
        asyncio.run(migrate(url))
        yield [stack.enter_context(servers.shardhash_on_database(url, *arguments)) for _ in range(count)]


@contextmanager
def _reference() -> Iterator[list[Server]]:
    with PostgresqlServer(*DATABASE_SETTINGS, fsync=True) as database:
        url = database.create_database().replace("postgresql://", "postgresql+asyncpg://")
        server = servers.reference(url)
        if server is None:
            yield []
            return
        with server:
            while not database.execute("select 1 from pg_tables where tablename = 'config'", url.rpartition("/")[2]):
                time.sleep(0.1)  # it answers before it has made its tables
            yield [server]


CONTENDERS = {
    "embedded": _embedded,
    "postgresql": lambda: _on_database(1),
    "cold": lambda: _on_database(1, "--answer-cache", "0"),
    "two servers": lambda: _on_database(2),
    "reference": _reference,
}
"""Each starts what is measured, and yields its servers."""
NAMES = [*CONTENDERS, EDGE]
SHAPES = {
    "cold": ("block9000", "waves"),
    # A lookup of it is a transaction: a build's waves would take half an hour. It has no batches of reports.
    "reference": ("reports",),
}
"""What is asked of those who are not asked everything."""


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
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--builders", type=int, default=40, help="connections (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="processes that they are divided among (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measured runs; medians are shown (default 3)")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
