"""``shardhash edge``: its command line."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shardhash.base import options
from shardhash.base.command_line import parser_of, run_command
from shardhash.base.options import Options, option, switch
from shardhash.base.text import counted
from shardhash.edge import starting
from shardhash.edge.place import check_place, find_place
from shardhash.edge.settings import UPSTREAM, bind_of, make_settings
from shardhash.edge.starting import ANSWER_LIMIT
from shardhash.errors import ConfigError, StartError
from shardhash.server.option_table import LEVELS
from shardhash.server.settings import Configuration, Settings
from shardhash.shard.directory.control import ask
from shardhash.shard.directory.lock import is_locked
from shardhash.shard.storage.layout import EDGE_LOG
from shardhash.wire.address import Address, parse_bind

IDLE = 3600.0

DESCRIPTION = """\
Have a small server for the builds of this machine: print its address, one line, for BB_HASHSERVE. If none runs for
DIR, one is started; it goes on when the shell ends, and ends by itself once nobody was connected for --idle. A builder
that is connected and silent keeps it. The next start finds all that was reported. However many start it at one time,
there is one for a folder of data. With --upstream it asks that server for what it does not know, and sends on what
builds report here: they need not wait for it, and what it could not take yet waits in DIR, also until the next start.
"""
EXAMPLES = """\
files in DIR, beside the data:
  edge.sock           the address, unless --bind says otherwise: for this user alone
  edge.log edge.log.1 what the server logs, at most 1 MiB each
  outbox/             what waits to be sent on. With --idle over, a server that has some tries for as long again
  DIR must be on a disk of this machine. NFS and the like are refused.

examples:
  shardhash edge
        for all builds of this user; BB_HASHSERVE = "unix:///home/me/.local/state/shardhash/edge.sock"
  shardhash edge --sstate /srv/sstate --upstream wss://hash.example.com/ws
        one for each sstate cache, beside it (/srv/sstate.shardhash), which shares through the team's server
  shardhash edge --bind 127.0.0.1:8686
        at a port, where any user of this machine may look up and report
  shardhash edge --status; shardhash edge --stop

systemd can open the address and start the server when a builder comes: shardhash-edge.socket. In a build with the layer
meta-shardhash, SHARDHASH_EDGE = "1" does all of it.

exit status: 0 done; 1 it could not start, or --status found none; 2 called wrongly; 3 the data is damaged
"""


WHERE = (
    option(
        "--data",
        "SHARDHASH_EDGE_DATA",
        metavar="DIR",
        help="keep everything in this folder (default: shardhash in XDG_STATE_HOME, ~/.local/state)",
    ),
    option(
        "--sstate",
        "SHARDHASH_EDGE_SSTATE",
        metavar="DIR",
        help="keep everything beside this sstate cache, in DIR.shardhash",
    ),
    option(
        "--bind",
        "SHARDHASH_EDGE_BIND",
        metavar="ADDRESS[,RULE]",
        help="listen here instead of at edge.sock: 127.0.0.1:PORT, ws://127.0.0.1:PORT, unix://PATH",
    ),
    option(
        "--idle",
        "SHARDHASH_EDGE_IDLE",
        metavar="TIME",
        convert=options.seconds,
        default=IDLE,
        help="end when nobody was connected for so long",
    ),
    option(
        "--log",
        "SHARDHASH_LOG",
        metavar="LEVEL",
        convert=options.choice(*LEVELS),
        default="INFO",
        values=LEVELS,
        help="minimum log level",
    ),
)
WHAT = (
    switch("--status", help="tell whether a server runs for DIR, and how it does"),
    switch("--stop", help="end it, in order, and wait for that"),
    switch("--foreground", help="be the server, and log to standard error; for a service manager"),
    switch("--json", help="print one line of JSON"),
)

NO_FORWARD = switch(
    "--no-forward",
    "SHARDHASH_EDGE_NO_FORWARD",
    help="only ask the upstream, and send nothing on; for one that is not yours",
)


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash edge`; its exit status."""
    known = _options()
    given, flags = known.parse(arguments), known.flags(arguments)
    if flags.data is None and flags.sstate is not None:
        given.data = None  # a flag wins over a variable, of the other option, too
    elif flags.data is not None and flags.sstate is None:
        given.sstate = None
    if sum((given.status, given.stop, given.foreground)) > 1:
        known.parser.error("--status, --stop and --foreground are three different things; give one of them")
    try:
        directory = find_place(given.data, given.sstate, os.environ)
    except ConfigError as error:
        known.parser.error(str(error))
    command = _status if given.status else _stop if given.stop else _foreground if given.foreground else _start
    interrupted = "interrupted; a server that is starting goes on"
    return run_command("edge", lambda: _work(command, given, directory), interrupted=interrupted)


def _work(command: Callable[[argparse.Namespace, Path], int], given: argparse.Namespace, directory: Path) -> int:
    try:
        return command(given, directory)
    except StartError as error:
        _tell(str(error))
        return error.status


def _start(given: argparse.Namespace, directory: Path) -> int:
    check_place(directory)
    bind = bind_of(directory, given.bind)
    wanted = " ".join(map(str, given.upstream or ())) or None
    found = starting.find_or_start(
        directory,
        Path(bind.address.path) if bind.address.kind == "unix" else None,
        wanted,
        lambda: partial(_serve, make_settings(given, directory, bind)),
        _tell,
    )
    if given.bind is not None and not _is_at(bind.address, found.address):
        _tell(f"the server runs already, at {found.address} and not at {bind.address}; {_end_it(directory)}")
    if wanted not in (None, found.upstream):
        _tell(
            f"the server runs already, with {found.upstream or 'no server'} for its upstream, and not {wanted};"
            f" {_end_it(directory)}"
        )
    print(_json(address=found.address, pid=found.pid, started=found.started) if given.json else found.address)
    return 0


def _is_at(wanted: Address, address: str) -> bool:
    """Whether an address is the one that was wanted; port 0 is any."""
    found, _ = parse_bind(address)
    return found._replace(port=0 if wanted.port == 0 else found.port) == wanted


def _end_it(directory: Path) -> str:
    return f"`shardhash edge --stop --data {shlex.quote(str(directory))}` ends it, and the next start takes the new one"


def _foreground(given: argparse.Namespace, directory: Path) -> int:
    check_place(directory)
    if directory.is_dir() and (found := starting.find(directory)) is not None:
        raise ConfigError(
            f"a server runs for {directory} already, at {found.address} (process {found.pid}); {_end_it(directory)}"
        )
    return _serve(make_settings(given, directory, bind_of(directory, given.bind)))


def _serve(settings: Settings) -> int:
    from shardhash.server.reload import Reload
    from shardhash.server.start import run  # takes a quarter of a second, which finding a server need not

    told = Configuration({}, settings)
    return run(settings, Reload(told, (), lambda: told))


def _stop(given: argparse.Namespace, directory: Path) -> int:
    stopped = starting.stop(directory, _tell)
    text = f"the server of {directory} has stopped" if stopped else f"no server runs for {directory}"
    print(_json(stopped=stopped) if given.json else text)
    return 0


def _status(given: argparse.Namespace, directory: Path) -> int:
    answer = ask(directory, "status", ANSWER_LIMIT) if directory.is_dir() else None
    if answer is None or not answer.get("addresses"):
        busy = directory.is_dir() and is_locked(directory)
        text = f"a server of {directory} is starting or stopping, or was not started by `shardhash edge`"
        print(_json(running=False, data=str(directory)) if given.json else text if busy else _none(directory))
        return 1
    if given.json:
        print(_json(running=True, data=str(directory), log=str(directory / EDGE_LOG), **answer))
        return 0
    print(answer["addresses"][0])
    print(f"process {answer['pid']}, since {answer['since']}; {answer['connections']} connections, {_quiet(answer)}")
    if answer["upstream"] is not None:
        down = "down: what is known here answers" if answer["upstream_down"] else "answers"
        print(f"upstream {answer['upstream']}: {down}{_forwarding(answer['forwarding'])}")
    print(f"data in {directory}, log in {directory / EDGE_LOG}")
    return 0


def _none(directory: Path) -> str:
    return f"no server runs for {directory}"


def _forwarding(found: dict[str, Any] | None) -> str:
    if found is None:
        return "; nothing is sent on"
    trouble = f" ({found['trouble']})" if found["trouble"] else ""
    reports = counted(found["waiting"], "report waits", "reports wait")
    return f"; {reports} to be sent on{trouble}, {counted(found['refused'], 'was', 'were')} refused"


def _quiet(answer: dict[str, Any]) -> str:
    if answer["connections"]:
        return f"ends {answer['idle']:g} s after the last one"
    return f"ends in {max(answer['idle'] - answer['quiet'], 0):.0f} s"


def _json(**values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def _tell(text: str) -> None:
    print(f"shardhash edge: {text}", file=sys.stderr, flush=True)


def _options() -> Options:
    parser = parser_of("edge", DESCRIPTION, EXAMPLES)
    upstream = (*UPSTREAM, NO_FORWARD)
    return Options(parser, {"where and how long": WHERE, "what to do instead": WHAT, "upstream": upstream})
