"""``shardhash gc``: remove what no cache holds and nobody asks for, after a look at it.

1. The collection begins: from now on, what is asked for or reported stays (wire/collecting.py).
2. What the caches hold is kept, and what was used lately.
3. What is left is shown. Nothing was changed until here, and nothing is if it is not wanted.
4. All of it goes into an undo file, which is synced, read back and found whole.
5. Only then is it removed, as that file names it; what was used meanwhile stays.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardhash.base import options
from shardhash.base.command_line import parser_of, run_command
from shardhash.base.options import Options
from shardhash.base.secrets import PASSWORD, password_of
from shardhash.client.hints import advice
from shardhash.client.progress import Progress
from shardhash.client.sstate import names_below, unihashes_in
from shardhash.client.undo_files import UndoFile, keeps_nothing, read_undo_file
from shardhash.errors import ConfigError, InvokeError

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

TIMEOUT = 600.0
"""Seconds that a server may take for one step: it looks at everything, beside lookups."""
AT_ONCE = 5000
"""Unihashes of one message."""
TAKEN_AT_ONCE = 1000
SHOWN = 20
"""Recipes that are shown."""
MAPPING_MEMORY, ROW_MEMORY = 210, 330
"""Bytes of memory that a mapping takes, and a row besides; measured with 10 million mappings and a million rows."""

TEXT = """\
Remove mappings, and their outhash rows, that no cache of shared state holds and that nobody asked for lately. It first
shows what would go, and changes nothing until that is wanted: --yes, or yes on a terminal. What is asked for or
reported while it runs stays. All that goes is in an undo file before any of it goes.
"""
EXAMPLES = """\
A mapping stays if ANY of these says so: a cache of --sstate has an object of its unihash; somebody asked for it or
reported it within --unused; it was used within --grace. The server notes the day (UTC) on which a mapping was last
asked for, and writes that with its snapshots: a restart loses what was asked since the last one. On a database it is
written every ten seconds. What is not known counts as used. There is one collection at a time in a server, or on a
database over all of its servers; whichever is asked, what any of them answers or stores meanwhile stays.

exit status: 0 done, or shown; 1 refused, not reached, or a cache that cannot be read, and nothing more is removed;
2 called wrongly

examples:
  shardhash gc --sstate /srv/sstate --unused 90d
  aws s3 ls --recursive s3://bucket/sstate/ | shardhash gc --sstate - --yes --undo gc.jsonl
  shardhash client undo gc.jsonl        (takes it back, while the server runs; `shardhash load` when it is stopped)
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``shardhash gc``; its exit status."""
    known = _options()
    given = known.parse(arguments)
    if not given.sstate and given.unused is None:
        known.parser.error("say what stays: --sstate DIR, what a cache holds; --unused 90d, what was used lately")

    def run() -> int:
        from shardhash.client.blocking import create_client
        from shardhash.client.cli import default_address

        address = given.address or default_address(os.environ)
        if given.undo is not None and keeps_nothing(given.undo):
            raise ConfigError(f"--undo: {given.undo} keeps nothing; name a file. Nothing is removed")
        password = password_of(given.login)
        try:
            with create_client(address, given.login, password, timeout=TIMEOUT, breaker=None) as client:
                return _collect(client, given)
        except InvokeError as error:
            raise ConfigError(f"refused: {error}{advice(str(error))}") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return run_command("gc", run, interrupted="interrupted; what is removed is in the undo file")


def _collect(client: Client, given: argparse.Namespace) -> int:
    begun = client.collect("begin")
    name = begun["collection"]
    try:
        if given.unused is not None and not begun["asked"]:
            raise ValueError("--unused: this server does not note what is asked for; use --sstate alone")
        kept = _keep(client, name, given)
        doomed = client.collect("choose", name)
        memory = doomed["mappings"] * MAPPING_MEMORY + doomed["rows"] * ROW_MEMORY
        report = {"objects": kept, **doomed, "bytes": memory, "undo": None, "removed": None}
        if not given.json:
            _show(report)
        if not doomed["mappings"]:
            return _finish(given, report, "nothing is to be removed")
        if not _wanted(given):
            return _finish(given, report, "nothing is done: add --yes, and --undo FILE")
        undo = given.undo or Path(datetime.now(UTC).strftime("shardhash-gc-%Y%m%d-%H%M%S.jsonl"))
        _write_undo_file(client, name, undo)
        _take(client, name, undo)
    finally:
        ended = _end(client, name)
    report |= {"undo": str(undo), "removed": ended}
    gone = f"{ended['mappings']:,} mappings and {ended['rows']:,} rows are removed"
    return _finish(given, report, f"{gone}; shardhash client undo {undo} takes that back")


def _end(client: Client, name: str) -> dict[str, Any]:
    try:
        return client.collect("end", name)
    except (InvokeError, ConnectionError):  # it is over already, or the server is gone, which was told
        return {"mappings": 0, "rows": 0}


def _keep(client: Client, name: str, given: argparse.Namespace) -> int:
    """Keep what is to stay; how many objects of caches were found."""
    objects = 0
    for place in given.sstate or ():
        lines = sys.stdin if place == "-" else names_below(place)
        found = 0
        followed = Progress(sys.stderr, "objects of the cache").follow(unihashes_in(lines))
        while some := list(islice(followed, AT_ONCE)):
            client.collect("keep", name, unihashes=sorted(set(some)))
            found += len(some)
        if not found:
            what = "standard input" if place == "-" else place
            raise ValueError(f"{what} names no object of a cache (...:UNIHASH_TASK.tar.zst): nothing is removed")
        objects += found
    for span in (given.unused, given.grace):
        if span:
            since = datetime.now(UTC) - timedelta(seconds=span)
            client.collect("keep-used", name, since=since.date().isoformat())
    return objects


def _show(report: Mapping[str, Any]) -> None:
    recipes: list[tuple[str | None, int, int]] = report["recipes"]
    for recipe, mappings, rows in recipes[:SHOWN]:
        print(f"{mappings:>10,} mappings {rows:>10,} rows  {recipe or '(no recipe)'}")
    if len(recipes) > SHOWN:
        others = sum(mappings for _, mappings, _ in recipes[SHOWN:])
        print(f"{others:>10,} mappings of {len(recipes) - SHOWN:,} other recipes")
    size = report["bytes"] / (1 << 20)
    would = f"{report['mappings']:,} mappings with {report['rows']:,} rows would go, about {size:,.1f} MiB of memory"
    print(f"{would}; {report['kept']:,} mappings stay")


def _wanted(given: argparse.Namespace) -> bool:
    if given.yes:
        return True
    if given.dry_run or given.json or "-" in (given.sstate or ()) or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")


def _finish(given: argparse.Namespace, report: Mapping[str, Any], text: str) -> int:
    print(json.dumps(report) if given.json else text)
    return 0


def _write_undo_file(client: Client, name: str, path: Path) -> None:
    """Write all that would go as a dump, make it durable, and prove it whole. ValueError when that fails."""
    with UndoFile(path) as undo:
        for task in Progress(sys.stderr, "mappings into the undo file").follow(_doomed(client, name)):
            rows = task.pop("rows")
            undo.add_mapping(task)
            for row in rows:
                undo.add_row(row)
        undo.finish()
    read = {"mapping": 0, "row": 0}
    for line in read_undo_file(path):
        read[line["type"]] += 1
    if (read["mapping"], read["row"]) != (undo.mappings, undo.rows):
        raise ValueError(f"{path} does not read back as it was written. Nothing is removed")


def _doomed(client: Client, name: str) -> Iterator[dict[str, Any]]:
    after: int | None = 0
    while after is not None:
        page = client.collect("show", name, after=after)
        yield from page["tasks"]
        after = page["next"]


def _take(client: Client, name: str, undo: Path) -> None:
    """Remove what the undo file names."""
    mappings = (line for line in read_undo_file(undo) if line["type"] == "mapping")
    followed = Progress(sys.stderr, "mappings removed").follow(mappings)
    while some := list(islice(followed, TAKEN_AT_ONCE)):
        client.collect("take", name, mappings=_named(some))


def _named(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{column: line[column] for column in ("method", "taskhash", "unihash")} for line in lines]


def _options() -> Options:
    known = Options(parser_of("gc", TEXT, EXAMPLES))
    known.add(
        "--sstate",
        metavar="DIR|-",
        repeatable=True,
        help="keep what this cache holds: its folder, or - for a listing on standard input; may be given several times",
    )
    known.add(
        "--unused",
        metavar="TIME",
        convert=options.seconds,
        help="keep what somebody asked for or reported within this time, such as 90d, counted in whole days",
    )
    known.add(
        "--grace",
        metavar="TIME",
        convert=lambda text: 0.0 if text == "0" else options.seconds(text),
        default=86400.0,
        help="keep what was used within this time whatever a cache holds, such as what was built since a listing was"
        " made (default 1d; 0 for none)",
    )
    known.add(
        "--address", "SHARDHASH_ADDRESS", metavar="ADDRESS",
        help="the server (default: the one of this machine's settings, as for shardhash client)",
    )  # fmt: skip
    known.add(
        "--login", "SHARDHASH_LOGIN", metavar="USER",
        help=f"user at that server; needs @db-admin. The token is taken from {PASSWORD}; without --login from ~/.netrc",
    )  # fmt: skip
    known.switch("--dry-run", help="only show what would go, also on a terminal")
    known.switch("--yes", help="remove it without asking")
    known.add(
        "--undo", metavar="FILE", convert=Path,
        help="a new file that takes all that is removed (default shardhash-gc-DATE.jsonl, here)",
    )  # fmt: skip
    known.switch("--json", help="print the report as one line of JSON")
    return known
