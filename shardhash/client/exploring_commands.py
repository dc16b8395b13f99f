"""The commands of ``shardhash client`` that explore: who has what, which tasks diverge, why one was not reused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardhash.base import options
from shardhash.client.commands import Answer, Argument, Subcommand, argument, checked

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

SHOWN_LINES = 20
"""Differing lines of a siginfo that `why` shows."""
NAMES = ("taskhash", "outhash", "unihash", "method", "PN", "task", "owner", "since", "until")


def _find(client: Client, given: argparse.Namespace) -> Answer:
    _say_that_it_takes_a_while()
    found = client.find(search_of(given), given.limit)
    lines = [describe_row(row) for row in found["rows"]]
    return Answer(found, "\n".join([*lines, _count(found, "rows")]))


def _diverging(client: Client, given: argparse.Namespace) -> Answer:
    _say_that_it_takes_a_while()
    found = client.diverging(search_of(given, everything=True), given.limit)
    lines = [f"{count:>8}  {recipe or '(no recipe)'}" for recipe, count in found["recipes"]]
    for task in found["tasks"]:
        lines += ["", f"{task[-1]['PN']} {task[-1]['task']} {task[-1]['method']} {task[-1]['taskhash']}"]
        lines += [f"    {row['created'][:19]}  {row['outhash']}  by {row['owner'] or 'nobody named'}" for row in task]
    return Answer(found, "\n".join([*lines, "", _count(found, "tasks have more than one outhash")]))


def _saved(client: Client, given: argparse.Namespace) -> Answer:
    _say_that_it_takes_a_while()
    saved = client.saved(given.since)
    lines = [f"{item['count']:>8}  {item['week']}  {item['PN'] or '(no recipe)'}" for item in saved]
    total = sum(item["count"] for item in saved)
    return Answer(saved, "\n".join([*lines, f"{total:>8}  tasks reused another's output since {given.since}"]))


def _diff_outhash(client: Client, given: argparse.Namespace) -> Answer:
    from shardhash.client.siginfo import differences  # and difflib, which other commands need not

    texts = []
    for outhash in (given.outhash, given.other):
        row = client.get_outhash(given.method, outhash, "", False)
        if row is None:
            raise ValueError(f"no row of the outhash {outhash} is known")
        if row.get("outhash_siginfo") is None:
            raise ValueError(f"the row of the outhash {outhash} has no outhash_siginfo: it was reported without one")
        texts.append(row["outhash_siginfo"])
    lines = differences(texts[0], texts[1], (given.outhash, given.other), given.context)
    return Answer(lines, "\n".join(lines) or "no line differs", 1 if lines else 0)


def _why(client: Client, given: argparse.Namespace) -> Answer:
    from shardhash.client.siginfo import taskhash_of  # and difflib, which other commands need not

    path = Path(given.taskhash)
    from_file = path.is_file()
    taskhash = taskhash_of(path) if from_file else given.taskhash
    if taskhash is None:
        raise ValueError(f"{path} is not named by a taskhash, as sigdata files of BitBake are")
    story = client.why(taskhash, given.method, given.pn, given.task)
    lines = [*story["findings"], *_inputs(path, given.other)] if from_file else list(story["findings"])
    if given.other and not from_file:
        raise ValueError(
            f"{given.taskhash} is not a file: give one taskhash (its method by --method), or two sigdata files"
        )
    for row in story["rows"]:
        lines.append(f"  reported {row['created'][:19]} by {row['owner'] or 'nobody named'}: outhash {row['outhash']}")
    if story["rows"] and story["near"]:
        lines += _nearest(client, story["rows"][0], story["near"])
    elif story["near"]:
        lines += ["the newest of the same recipe and task:", *(f"  {describe_row(row)}" for row in story["near"])]
    return Answer(story, "\n".join(lines))


def _inputs(path: Path, other: str | None) -> list[str]:
    """In what the inputs of two tasks differ, by their sigdata files."""
    from shardhash.client.siginfo import compare_sigdata, read_sigdata

    if other is None:
        return []
    lines = [f"  {line}" for line in compare_sigdata(read_sigdata(path), read_sigdata(Path(other)))]
    return [f"inputs that differ from those of {other}:", *(lines or ["  none"])]


def _nearest(client: Client, row: Mapping[str, Any], near: Iterable[Mapping[str, Any]]) -> list[str]:
    """In which lines the output of a task differs from that of the nearest other one."""
    from shardhash.client.siginfo import differences

    ours = client.get_row(row["method"], row["taskhash"], row["outhash"])
    for other in near:
        theirs = client.get_row(other["method"], other["taskhash"], other["outhash"])
        if ours and theirs and ours.get("outhash_siginfo") and theirs.get("outhash_siginfo"):
            names = (f"{other['taskhash']} {other['outhash']}", f"{row['taskhash']} {row['outhash']}")
            lines = differences(theirs["outhash_siginfo"], ours["outhash_siginfo"], names)
            if not lines:
                return [f"its output is the same as that of {other['taskhash']}"]
            rest = [f"... and {len(lines) - SHOWN_LINES} lines more"] if len(lines) > SHOWN_LINES else []
            return ["its output beside that of the newest of the same recipe and task:", *lines[:SHOWN_LINES], *rest]
    return []


def search_of(given: argparse.Namespace, *, everything: bool = False) -> dict[str, str]:
    """What the options say to look for. ValueError when they say nothing, unless that may be."""
    named = {name: getattr(given, f"by_{name}") for name in NAMES}
    search = {name: text for name, text in named.items() if text is not None}
    if not search and not everything:
        raise ValueError("say what to look for: --pn, --task, --owner, --taskhash, --outhash, --unihash, --since ...")
    return search


def describe_row(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    when = (row["created"] or "-")[:19]
    return f"{when:<19}  {row['PN'] or '-'} {row['task'] or '-'}  {row['taskhash']} -> {row['unihash'] or 'nothing'}"


def _count(found: Mapping[str, Any], what: str) -> str:
    more = "" if found["complete"] else " at least; the search was cut off: narrow it"
    return f"{found['count']} {what}{more}"


def _say_that_it_takes_a_while() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("searching, beside lookups; up to 20 s ...\n")


def search_arguments() -> tuple[Argument, ...]:
    """The options that say what to look for."""
    helps = {
        "taskhash": "whole, or 8 digits or more of its beginning",
        "outhash": "the same",
        "unihash": "the same",
        "method": "such as oe.sstatesig.OEOuthashBasic; a * at the end stands for any rest, here and below",
        "PN": "the recipe",
        "task": "such as do_compile",
        "owner": "who reported it",
        "since": "reported at this time or later: ISO 8601, UTC",
        "until": "reported at this time or earlier",
    }
    found = [
        argument(f"--{name.lower()}", dest=f"by_{name}", metavar="TEXT", help=text) for name, text in helps.items()
    ]
    return tuple(found)


def _limit(most: int, default: int) -> Argument:
    text = f"show at most this many (default {default})"
    return argument("--limit", type=checked(options.whole(1, most)), default=default, metavar="N", help=text)


SUBCOMMANDS = (
    Subcommand(
        "find", "show the newest rows that match, and how many do", _find,
        (*search_arguments(), _limit(1000, 20)),
    ),
    Subcommand(
        "why",
        "say whether a task is known, as what it is reused, what else has its output, and what keeps it from being"
        " reused; of two sigdata files of BitBake also in which inputs they differ",
        _why,
        (
            argument("taskhash", metavar="TASKHASH|SIGDATA"),
            argument("other", metavar="SIGDATA", nargs="?"),
            argument("--method", metavar="METHOD"),
            argument("--pn", metavar="RECIPE", help="with --task: what is near, if it is unknown"),
            argument("--task", metavar="TASK"),
        ),
    ),
    Subcommand(
        "diverging", "show tasks with more than one outhash: the same inputs gave another output", _diverging,
        (*search_arguments(), _limit(200, 20)),
    ),
    Subcommand(
        "saved", "count the tasks that reused another's output, by recipe and week", _saved,
        (argument("--since", default="2000-01-01", metavar="TIME", help="ISO 8601, UTC (default: all)"),),
    ),
    Subcommand(
        "diff-outhash",
        "show in which lines the outhash_siginfo of two outhashes differ; exit status 1 if any does",
        _diff_outhash,
        (
            argument("method", metavar="METHOD"),
            argument("outhash", metavar="OUTHASH"),
            argument("other", metavar="OUTHASH"),
            argument("--context", type=checked(options.whole(0, 1000)), default=0, metavar="N", help="equal lines"),
        ),
    ),
)  # fmt: skip
"""Every command, in the order of --help."""
