"""The commands of ``shardhash client`` for a server that sends its reports on to an upstream."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardhash.base import options
from shardhash.client.commands import Answer, Subcommand, argument, checked

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

SHOWN = 10


def _forwarding(client: Client, given: argparse.Namespace) -> Answer:
    found = client.forwarding(given.limit)
    results, refused, conflicts = found["results"], found["refused"], found["conflicts"]
    since = f", the oldest since {found['oldest']}" if found["oldest"] else ""
    lines = [
        f"{found['waiting']:,} reports wait ({found['bytes'] >> 10:,} of {found['limit'] >> 10:,} KiB){since}",
        f"since the start {results['accepted']:,} were sent, {results['left-out']:,} left out for want of room",
    ]
    if found["trouble"]:
        lines.append(f"the upstream takes none: {found['trouble']}")
    lines.append(f"{refused['count']:,} refused by the upstream are kept apart")
    lines += [f"  {_describe(row)}  {row['why']}" for row in refused["rows"]]
    lines.append(f"{conflicts['count']:,} have another unihash at the upstream than here, where each stays as it is")
    lines += [f"  {_describe(row)}  here {row['unihash']}  there {row['upstream']}" for row in conflicts["rows"]]
    return Answer(found, "\n".join(lines))


def _describe(row: Mapping[str, Any]) -> str:
    task = " ".join(filter(None, (row["PN"], row["task"])))
    return f"{row['time'][:19]}  {task or row['method']}  {row['taskhash']}"


def _forward_refused(client: Client, _given: argparse.Namespace) -> Answer:
    count = client.forward_refused()
    return Answer({"count": count}, f"{count:,} reports wait again; `forwarding` shows what becomes of them")


def _drop_refused(client: Client, given: argparse.Namespace) -> Answer:
    if not given.yes:
        count = client.forwarding(0)["refused"]["count"]
        return Answer({"count": count}, f"{count:,} reports would never be sent on; nothing is done: add --yes")
    count = client.drop_refused()
    return Answer({"count": count}, f"{count:,} reports are not sent on; they stay stored at this server")


SUBCOMMANDS = (
    Subcommand(
        "forwarding",
        "show what a server with --forward has still to send to its upstream, what that refused, and what it answered"
        " otherwise than this server",
        _forwarding,
        (
            argument(
                "--limit",
                type=checked(options.whole(0, 1000)),
                default=SHOWN,
                metavar="N",
                help=f"how many of the newest refused ones and conflicts are shown (default {SHOWN})",
            ),
        ),
    ),
    Subcommand("forward-refused", "send again what the upstream refused, once its cause is mended", _forward_refused),
    Subcommand(
        "drop-refused",
        "forget what the upstream refused; without --yes it only shows how many reports that are",
        _drop_refused,
        (argument("--yes", action="store_true", help="do it"),),
    ),
)
"""Every command, in the order of --help."""
