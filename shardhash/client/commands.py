"""The commands of ``shardhash client``: the arguments of each, what it asks, and how the answer is put in words."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardhash.base import options
from shardhash.client.conditions import MarkWhere, Where, read_conditions
from shardhash.client.hints import hint
from shardhash.client.progress import Progress
from shardhash.errors import ConfigError, InvokeError

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

PROBE_METHOD = "shardhash.probe"
"""The method of lookups that only ask whether there is an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gave: `value` for --json, `text` for people ("" for nothing), and the exit status."""

    value: Any
    text: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, as argparse takes it."""

    names: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One command. `run` may raise what the client raises, and ValueError for input that is wrong."""

    name: str
    help: str
    run: Callable[[Client, argparse.Namespace], Answer]
    arguments: tuple[Argument, ...] = ()


def argument(*names: str, **settings: Any) -> Argument:
    """An argument."""
    return Argument(names, settings)


def checked(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A conversion whose refusal argparse shows in its own words."""

    def checked(text: str) -> Any:
        try:
            return convert(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


# ------------------------------------------------------------------------------------------------------------- hashes


def _get(client: Client, given: argparse.Namespace) -> Answer:
    # A mapping that came by report-equiv has no row; its unihash is worth showing all the same.
    row = client.get_taskhash(given.method, given.taskhash, True) or client.get_taskhash(given.method, given.taskhash)
    return Answer(row, _object(row))


def _get_outhash(client: Client, given: argparse.Namespace) -> Answer:
    row = client.get_outhash(given.method, given.outhash, given.taskhash)
    return Answer(row, _object(row))


def _unihash_exists(client: Client, given: argparse.Namespace) -> Answer:
    exists = client.unihash_exists(given.unihash)
    return Answer(exists, "" if given.quiet else str(exists).lower(), 1 if given.quiet and not exists else 0)


def _object(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else json.dumps(row, indent=4, sort_keys=True)


# ----------------------------------------------------------------------------------------------------- administration


def _ping(client: Client, given: argparse.Namespace) -> Answer:
    times = []
    for _ in range(given.count):
        began = time.perf_counter()
        client.ping()
        _look_up_nothing(client)
        times.append(1000 * (time.perf_counter() - began))
    text = "" if given.quiet else "\n".join(f"alive, {taken:.3f} ms" for taken in times)
    return Answer({"alive": True, "milliseconds": [round(taken, 3) for taken in times]}, text)


def _look_up_nothing(client: Client) -> None:
    """Look up a hash that nobody has: a server whose workers are away answers pings all the same.

    ConnectionError if there is no answer. Who may not look up has asked all that he may.
    """
    with contextlib.suppress(InvokeError):
        client.get_unihash(PROBE_METHOD, os.urandom(32).hex())


def _stats(client: Client, given: argparse.Namespace) -> Answer:
    figures = client.reset_stats() if given.reset else client.get_stats()
    if given.watch is not None:
        _watch(client, given.watch, figures["requests"], as_json=bool(given.json))
    return Answer(figures, _object(figures))


def _watch(client: Client, pause: float, before: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a line for each pause, seconds, until Ctrl-C: what was asked since the line before."""
    if not as_json:
        print(f"{'requests/s':>12} {'average ms':>11} {'longest ms':>11}   (longest: since the start)")
    while True:
        time.sleep(pause)
        now = client.get_stats()["requests"]
        number = now["num"] - before["num"]
        if number < 0:  # somebody reset them
            number, before = now["num"], {"num": 0, "total_time": 0.0}
        rate = number / pause
        average = 1000 * (now["total_time"] - before["total_time"]) / number if number else 0.0
        if as_json:
            print(json.dumps({"requests_per_second": round(rate, 1), "average_ms": round(average, 4)}), flush=True)
        else:
            print(f"{rate:>12,.0f} {average:>11.3f} {1000 * now['max_time']:>11.3f}", flush=True)
        before = now


def _remove(client: Client, given: argparse.Namespace) -> Answer:
    if not given.where:
        return Answer({"count": 0}, "no --where is given: nothing was removed")
    answer = client.remove(given.where)
    return Answer(answer, f"{answer['count']} rows removed")


def _clean_unused(client: Client, given: argparse.Namespace) -> Answer:
    answer = client.clean_unused(given.max_age)
    return Answer(answer, f"{answer['count']} rows removed")


def _get_db_usage(client: Client, _given: argparse.Namespace) -> Answer:
    usage = client.get_db_usage()
    lines = [f"{'table':<20} {'rows':>12}", *(f"{name:<20} {usage[name]['rows']:>12}" for name in sorted(usage))]
    return Answer(usage, "\n".join(lines))


def _get_db_query_columns(client: Client, _given: argparse.Namespace) -> Answer:
    columns = client.get_db_query_columns()
    return Answer(columns, "\n".join(columns))


# ------------------------------------------------------------------------------------------------- garbage collection


def _gc_status(client: Client, _given: argparse.Namespace) -> Answer:
    status = client.gc_status()
    if status["mark"] is None:
        return Answer(status, "no garbage collection is in progress")
    lines = [
        f"current mark:     {status['mark']}",
        f"hashes to keep:   {status['keep']}",
        f"hashes to remove: {status['remove']}",
    ]
    return Answer(status, "\n".join(lines))


def _gc_mark(client: Client, given: argparse.Namespace) -> Answer:
    answer = client.gc_mark(given.mark, given.where)
    return _marked(given.mark, answer["count"])


def _marked(mark: str, count: int) -> Answer:
    if not count:
        hint(f"nothing matched, but {mark} is the current mark now: gc-sweep {mark} removes all hashes without it")
    return Answer({"count": count}, f"{count} hashes marked")


def _gc_mark_stream(client: Client, given: argparse.Namespace) -> Answer:
    conditions = read_conditions(sys.stdin.buffer, _warn_of_skipped)
    lines = Progress(sys.stderr, "lines", loud=given.progress).follow(conditions)
    if (first := next(lines, None)) is None:
        return Answer({"count": 0}, "0 hashes marked")
    return _marked(given.mark, _mark_all(client, given.mark, first, lines))


def _warn_of_skipped(why: str) -> None:
    hint(f"skipped, and marks nothing: {why}")


def _mark_all(client: Client, mark: str, first: dict[str, str], others: Iterable[dict[str, str]]) -> int:
    """Mark by a stream; one by one if the server is too old for it, which closes the connection at the first."""
    rows = itertools.chain([first], others)
    try:
        client.gc_mark_stream(mark, [first])
    except ConnectionError:
        return sum(int(client.gc_mark(mark, row)["count"]) for row in rows)
    return int(client.gc_mark_stream(mark, rows)["count"])


def _gc_sweep(client: Client, given: argparse.Namespace) -> Answer:
    answer = client.gc_sweep(given.mark)
    return Answer(answer, f"{answer['count']} hashes removed")


# --------------------------------------------------------------------------------------------------------------- load


def _stress(_client: Client, given: argparse.Namespace) -> Answer:
    # Imported here because asyncio takes a while, which --help need not.
    import asyncio

    from shardhash.client.asynchronous import AsyncClient
    from shardhash.client.stress import Load, stress

    clients = [AsyncClient(given.address, given.login, given.password, breaker=None) for _ in range(given.clients)]
    load = Load(given.requests, given.taskhash_seed, given.outhash_seed, given.report)
    figures = asyncio.run(stress(clients, load, given.become))
    lines = [f"{name.replace('_', ' '):<18} {value}" for name, value in figures.items()]
    return Answer(figures, "\n".join(lines), 1 if figures["wrong"] else 0)


_METHOD = argument("method", metavar="METHOD", help="such as oe.sstatesig.OEOuthashBasic")
_TASKHASH = argument("taskhash", metavar="TASKHASH")
_MARK = argument("mark", metavar="MARK", help="any word that names this collection")


_ALL = "what matches; all of them, if given several times"


def _where_argument(action: type[Where], text: str) -> Argument:
    return argument("--where", "-w", metavar=("COLUMN", "VALUE"), nargs=2, action=action, default={}, help=text)


SUBCOMMANDS = (
    Subcommand("get", "show what is known of a taskhash; nothing if it is unknown", _get, (_METHOD, _TASKHASH)),
    Subcommand(
        "get-outhash",
        "show the oldest task with an outhash; nothing if it is unknown",
        _get_outhash,
        (_METHOD, argument("outhash", metavar="OUTHASH"), _TASKHASH),
    ),
    Subcommand(
        "unihash-exists",
        "whether a unihash is known: true or false; with --quiet exit status 0 or 1",
        _unihash_exists,
        (argument("unihash", metavar="UNIHASH"), argument("--quiet", action="store_true", help="print nothing")),
    ),
    Subcommand(
        "ping",
        "whether the server answers, and how quickly",
        _ping,
        (
            argument("--count", "-n", type=checked(options.whole(1, 1_000_000)), default=1, metavar="N"),
            argument("--quiet", "-q", action="store_true", help="print nothing"),
        ),
    ),
    Subcommand(
        "stats",
        "show how many requests there were and how long they took",
        _stats,
        (
            argument("--reset", action="store_true", help="and set the figures to zero"),
            argument(
                "--watch",
                type=checked(options.seconds),
                nargs="?",
                const=2.0,
                metavar="TIME",
                help="go on: a line each TIME (default 2s) until Ctrl-C",
            ),
        ),
    ),
    Subcommand("get-db-usage", "show how much is stored", _get_db_usage),
    Subcommand("get-db-query-columns", "list the columns that remove takes", _get_db_query_columns),
    Subcommand(
        "remove",
        "remove what matches: each table takes the conditions that are columns of its own, so that a method and an"
        " outhash remove the rows of that outhash and EVERY mapping of the method",
        _remove,
        (_where_argument(Where, _ALL),),
    ),
    Subcommand(
        "clean-unused",
        "remove outhashes of tasks that have no unihash any more",
        _clean_unused,
        (
            argument(
                "max_age",
                metavar="SECONDS",
                type=checked(options.whole(0, 1 << 53)),
                help="only what is older than this",
            ),
        ),
    ),
    Subcommand("gc-status", "show the garbage collection in progress", _gc_status),
    Subcommand(
        "gc-mark",
        "keep what matches through the sweep",
        _gc_mark,
        (_MARK, _where_argument(MarkWhere, f"{_ALL}; without it nothing is kept")),
    ),
    Subcommand(
        "gc-mark-stream",
        "keep what matches one of the lines on standard input, `COLUMN VALUE [COLUMN VALUE ...]`",
        _gc_mark_stream,
        (_MARK, argument("--progress", action="store_true", help="show it even if standard error is not a terminal")),
    ),
    Subcommand("gc-sweep", "remove all hashes without the mark, which ends the collection", _gc_sweep, (_MARK,)),
    Subcommand(
        "stress",
        "put load on a server and show how it bears it",
        _stress,
        (
            argument("--clients", type=checked(options.whole(1, 10_000)), default=10, metavar="N"),
            argument("--requests", type=checked(options.whole(1, 10_000_000)), default=1000, metavar="N"),
            argument("--taskhash-seed", "--seed", default="shardhash", help="other taskhashes for another text"),
            argument("--outhash-seed", default="shardhash", help="other outhashes for another text"),
            argument("--report", action="store_true", help="report what is not known (method shardhash.stress)"),
        ),
    ),
)
"""Every command, in the order of --help."""
