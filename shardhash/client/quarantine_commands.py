"""The commands of ``shardhash client`` for poisoned entries: set them aside, take that back, remove them, undo it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shardhash.client.commands import Answer, Subcommand, argument
from shardhash.client.exploring_commands import describe_row, search_arguments, search_of
from shardhash.client.reports import BATCH, in_batches, weight_of
from shardhash.client.undo_files import UndoFile, read_undo_file

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

AT_ONCE = 100
"""Rows of one message, with their siginfo."""
SHOWN = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _quarantine(client: Client, given: argparse.Namespace) -> Answer:
    search = search_of(given)
    if not given.yes:
        chosen = client.quarantine(search, preview=True)
        rows = client.find(search, SHOWN)["rows"]
        lines = [*_list(rows, chosen["rows"]), _describe(chosen), "nothing is done: add --yes"]
        return Answer(chosen, "\n".join(lines))
    entry = client.quarantine(search, given.reason)
    return Answer(entry, f"{_describe(entry)}\nquarantine {entry['name']}: `release {entry['name']}` takes it back")


def _quarantines(client: Client, _given: argparse.Namespace) -> Answer:
    entries = client.quarantines()
    lines = [
        f"{entry['name']}  {entry['time'][:19]}  {entry['user'] or 'anonymous'}  {entry['mappings']} mappings"
        f"  {json.dumps(entry['where'])}  {entry['reason']}"
        for entry in entries
    ]
    return Answer(entries, "\n".join(lines) or "nothing is in quarantine")


def _release(client: Client, given: argparse.Namespace) -> Answer:
    entry = client.release(given.name)
    kept = entry["mappings"] - entry["restored"]
    again = f"; {kept} were made again meanwhile, and stay as builds made them" if kept else ""
    return Answer(entry, f"{entry['restored']} mappings are back{again}")


def _discard(client: Client, given: argparse.Namespace) -> Answer:
    search = search_of(given)
    found = client.find(search, SHOWN)
    if not given.yes:
        would = f"{found['count']} rows would be removed, and the mappings of their tasks"
        lines = [*_list(found["rows"], found["count"]), would, "nothing is done: add --yes, and --undo FILE"]
        return Answer(found, "\n".join(lines))
    if given.undo is None:
        raise ValueError("--yes needs --undo FILE, a new file that takes what is removed; /dev/null for none")
    rows = count = 0
    tasks: set[tuple[str, str]] = set()
    with UndoFile(given.undo) as undo:
        try:
            while some := client.find(search, AT_ONCE, True)["rows"]:
                some = [row for row in some if row["outhash"] is not None]
                if not some:  # mappings without a row: `remove` takes these
                    break
                for row in some:
                    _add(undo, row, tasks)
                undo.sync()
                count += client.discard((row["method"], row["taskhash"], row["outhash"]) for row in some)["count"]
                rows += len(some)
                if sys.stderr.isatty():
                    sys.stderr.write(f"\r{rows:,} rows removed ")
        finally:
            undo.finish()
    text = f"{rows} rows removed, {count - rows} mappings; {given.undo} undoes it"
    return Answer({"rows": rows, "count": count}, text)


_NOT_OF_A_ROW = ("unihash", "gc_mark", "siginfo", "asked")


def _add(undo: UndoFile, row: Mapping[str, Any], tasks: set[tuple[str, str]]) -> None:
    """Add a row that was found, and the mapping of its task unless it is one of `tasks`, which it is from then on."""
    task = (row["method"], row["taskhash"])
    if row["unihash"] is not None and task not in tasks:
        undo.add_mapping({"method": task[0], "taskhash": task[1], "unihash": row["unihash"], "gc_mark": row["gc_mark"]})
    tasks.add(task)
    undo.add_row({name: row[name] for name in row if name not in _NOT_OF_A_ROW})


def _undo(client: Client, given: argparse.Namespace) -> Answer:
    counts = {"mappings": 0, "rows": 0}
    for some in in_batches(read_undo_file(given.file), weight_of, BATCH):
        imported: dict[str, list[dict[str, Any]]] = {"mappings": [], "rows": []}
        for line in some:
            imported[f"{line['type']}s"].append(_imported(line))
        answer = client.import_batch(**imported)
        for kind in counts:
            counts[kind] += answer[kind].count("new")
    return Answer(counts, f"{counts['rows']} rows and {counts['mappings']} mappings are back")


def _imported(line: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping or row of an undo file, as `import-batch` takes it."""
    if line["type"] == "mapping":
        return {name: line[name] for name in ("method", "taskhash", "unihash")}
    created = (datetime.fromisoformat(line["created"]) - _EPOCH) // timedelta(microseconds=1)
    return {**{name: line[name] for name in line if name != "type"}, "created": created}


def _list(rows: list[dict[str, Any]], count: int) -> list[str]:
    more = [f"... and {count - len(rows)} more"] if count > len(rows) else []
    return [*map(describe_row, rows), *more]


def _describe(chosen: Mapping[str, Any]) -> str:
    shared = ""
    if chosen["shared"]:
        shared = (
            f"; {chosen['shared']} outhashes are those of other tasks, too, and go on giving equivalences: choose by"
            " --outhash to stop that"
        )
    return f"{chosen['rows']} rows, {chosen['mappings']} mappings, {chosen['outhashes']} outhashes{shared}"


_YES = argument("--yes", action="store_true", help="do it; without, show what it would be")

SUBCOMMANDS = (
    Subcommand(
        "quarantine",
        "set entries aside: their tasks answer nothing, so that builds make them again, and an outhash whose tasks are"
        " all chosen gives no new equivalences; without --yes it only shows what would be set aside",
        _quarantine,
        (*search_arguments(), _YES, argument("--reason", default="", metavar="TEXT", help="kept with it, for others")),
    ),
    Subcommand("quarantines", "list what is set aside", _quarantines),
    Subcommand(
        "release",
        "end a quarantine: mappings are back, but where builds made others",
        _release,
        (argument("name", metavar="NAME"),),
    ),
    Subcommand(
        "discard",
        "remove rows, and the mappings of their tasks, of just what is looked for; without --yes it only shows what",
        _discard,
        (*search_arguments(), _YES, argument("--undo", metavar="FILE", help="what is removed, for `undo` and `load`")),
    ),
    Subcommand("undo", "bring back what discard or `shardhash gc` removed", _undo, (argument("file", metavar="FILE"),)),
)
"""Every command, in the order of --help."""
