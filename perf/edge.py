"""An edge (`serve --upstream A --forward`) beside what it stands in front of, in turns, on one machine; by perf.beyond.

- reports: acknowledged by a server that asks its upstream for the unihash of each new outhash, as every server with an
  upstream does; by one that sends them on as well, so that sender and upstream share the machine's cores; by one whose
  upstream is away, so that they wait; and by one without an upstream;
- known: lookups of what both know, at a server without an upstream and at an edge;
- far: one build's lookups of a server that is 20 ms away (round trip), asked directly, through an edge that knows
  nothing, and through that edge again;
- drain: how fast an outbox that is full gets empty.

Every round asks each contender once, and the order changes from round to round. "of the first" is the median over the
rounds of a contender's time by that of the first one in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from perf import report, seeding, servers
from perf.pool import Pool, Run
from perf.reporters import BatchedReports, Reports, count_of
from perf.servers import Server
from perf.workload import Workload
from shardhash.client import create_client
from tests.proxy import Proxy

FAR = 0.01
"""Seconds one way to a far upstream."""
NOWHERE = "127.0.0.1:9"
"""An address where nobody answers."""
LOOK = 0.02
"""Seconds between two looks at an outbox."""

FORWARDING = "with --forward"

Asked = Workload | Reports | BatchedReports
Contender = Callable[[], Run]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures: contenders by what is measured."""
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        found |= {f"{name}: {shape}": figures for shape, figures in part(options).items()}
    return found


def show(measured: Mapping[str, Any]) -> None:
    """Print what `measure` found."""
    rows = []
    for title, contenders in measured.items():
        for name, found in contenders.items():
            ratio = f"{found['of_first']:.2f}" if "of_first" in found else ""
            rows.append([title, name, f"{found['seconds']:.3f} s", f"{found['lookups_per_second']:,.0f}/s", ratio])
    print(report.table(["edge", "contender", "time", "rate", "of the first"], rows))


# ---------------------------------------------------------------------------------------------------- what is measured


def _reports(options: argparse.Namespace) -> dict[str, Any]:
    few = options.quick
    shapes: dict[str, tuple[str, Asked]] = {
        "one by one": ("report", Reports(10 if few else 300)),
        "batched": ("report-batch", BatchedReports(1 if few else 10)),
    }
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.shardhash(1, durable=True))
        some = {
            "without --forward": stack.enter_context(_edge(upstream.addresses["ws"], forward=False)),
            FORWARDING: stack.enter_context(_edge(upstream.addresses["ws"])),
            "upstream away": stack.enter_context(_edge(NOWHERE)),
            "no upstream": stack.enter_context(servers.shardhash(1, durable=True)),
        }
        found = {}
        for shape, (client, asked) in shapes.items():
            with ExitStack() as pools:
                contenders = {
                    name: _runner(pools.enter_context(_pool(server, client, asked, options)), server, name)
                    for name, server in some.items()
                }
                found[shape] = _in_turns(f"reports {shape}", contenders, count_of(asked.steps()), options)
        return found


def _known(options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.shardhash(1, durable=True))
        some = {
            "no upstream": stack.enter_context(servers.shardhash(1, durable=True)),
            "edge": stack.enter_context(_edge(upstream.addresses["ws"])),
        }
        for server in some.values():
            asyncio.run(seeding.report(server.addresses["ws"], Workload(shape="waves")))
        _wait_until_empty(some["edge"])
        found = {}
        for shape, (client, asked) in _shapes(options).items():
            with ExitStack() as pools:
                contenders = {
                    name: pools.enter_context(_pool(server, client, asked, options)).run
                    for name, server in some.items()
                }
                found[shape] = _in_turns(f"known {shape}", contenders, count_of(asked.steps()), options)
        return found


def _far(options: argparse.Namespace) -> dict[str, Any]:
    one = argparse.Namespace(**vars(options) | {"builders": 1, "processes": 1})
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.shardhash(1, durable=True))
        asyncio.run(seeding.report(upstream.addresses["ws"], Workload(shape="waves")))
        far = stack.enter_context(_far_away(upstream))
        found = {}
        for shape, (client, asked) in _shapes(options).items():
            with ExitStack() as pools:
                direct = pools.enter_context(_pool(far, client, asked, one)).run
                again: list[Run] = []

                def through(client: str = client, asked: Asked = asked, again: list[Run] = again) -> Run:
                    with _edge(far.addresses["ws"]) as edge, _pool(edge, client, asked, one) as pool:
                        run = pool.run()
                        with create_client(edge.addresses["tcp"]) as there:
                            there.backfill_wait()
                        again.append(pool.run())
                    return run

                contenders: dict[str, Contender] = {"asked directly": direct, "through an edge": through}
                found[shape] = _in_turns(f"far {shape}", contenders, count_of(asked.steps()), one)
                found[shape]["through it again"] = report.summary(again[1:], count_of(asked.steps()))
        return found


def _drain(options: argparse.Namespace) -> dict[str, Any]:
    asked = BatchedReports(1 if options.quick else 25)
    seconds, counts = [], []
    for number in range(options.rounds):
        report.progress("edge: drain", number / options.rounds)
        with ExitStack() as stack:
            upstream = stack.enter_context(servers.shardhash(1, durable=True))
            data = Path(stack.enter_context(TemporaryDirectory(prefix="shardhash-perf-")))
            with _edge(NOWHERE, data) as edge, _pool(edge, "report-batch", asked, options) as pool:
                pool.run()
            begun, first = time.perf_counter(), 0
            with _edge(upstream.addresses["ws"], data) as edge:
                while waiting := _waiting(edge):
                    if not first:  # what is sent before the first look does not count
                        begun, first = time.perf_counter(), waiting
                    time.sleep(LOOK)
                seconds.append(time.perf_counter() - begun)
                counts.append(first)
    report.clear_progress()
    rate = median(count / taken for count, taken in zip(counts, seconds, strict=True))
    figures = {
        "lookups": median(counts),
        "seconds": median(seconds),
        "lookups_per_second": rate,
        "all_seconds": seconds,
    }
    return {"an outbox": {"sent on": figures}}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "reports": _reports,
    "known": _known,
    "far": _far,
    "drain": _drain,
}


def _shapes(options: argparse.Namespace) -> dict[str, tuple[str, Asked]]:
    few = options.quick
    return {
        "block9000": ("native", Workload(shape="block", lookups=500 if few else 9000)),
        "waves": ("stream", Workload(shape="waves", lookups=300 if few else 0)),
    }


# ---------------------------------------------------------------------------------------------------- how


def _in_turns(
    title: str, contenders: Mapping[str, Contender], count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Medians of each contender, and of its times by those of the first. The first round of all warms up."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for number in range(options.rounds + 1):
        report.progress(f"edge: {title}", number / (options.rounds + 1))
        order = list(contenders) if number % 2 else list(contenders)[::-1]
        for name in order:
            runs[name].append(contenders[name]())
    report.clear_progress()
    found = {name: report.summary(some[1:], count * options.builders) for name, some in runs.items()}
    first, *others = contenders
    for name in others:
        pairs = zip(runs[name][1:], runs[first][1:], strict=True)
        found[name]["of_first"] = median(run.seconds / base.seconds for run, base in pairs)
    return found


def _runner(pool: Pool, server: Server, name: str) -> Contender:
    """A run, after which nothing waits that the next contender would feel."""

    def run() -> Run:
        result = pool.run()
        if name == FORWARDING:
            _wait_until_empty(server)
        return result

    return run


def _pool(server: Server, client: str, asked: Asked, options: argparse.Namespace) -> Pool:
    return Pool(server, client, asked, options.builders, options.processes)


def _edge(upstream: str, data: Path | None = None, *, forward: bool = True) -> Server:
    arguments = ["--upstream", upstream, "--log", "ERROR", *(["--forward"] if forward else [])]
    return servers.shardhash(1, durable=data is None, data=data, arguments=tuple(arguments))


def _waiting(edge: Server) -> int:
    with create_client(edge.addresses["tcp"]) as client:
        waiting: int = client.forwarding(0)["waiting"]
        return waiting


def _wait_until_empty(edge: Server) -> None:
    while _waiting(edge):
        time.sleep(LOOK)


@contextmanager
def _far_away(server: Server) -> Iterator[Server]:
    """The same server as one far away sees it."""
    places: Future[dict[str, str]] = Future()
    ended = threading.Event()

    async def relay() -> None:
        ws, tcp = server.addresses["ws"], server.addresses["tcp"]
        async with Proxy(ws.removeprefix("ws://").rstrip("/"), FAR) as one, Proxy(tcp, FAR) as other:
            places.set_result({"ws": f"ws://127.0.0.1:{one.port}", "tcp": f"127.0.0.1:{other.port}"})
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(relay()))
    thread.start()
    try:
        yield Server(places.result(10), server.roles)
    finally:
        ended.set()
        thread.join()
