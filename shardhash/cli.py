"""``shardhash``: its subcommands. Each lives in a module of its own, which is imported when it is asked for."""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shardhash import __version__
from shardhash.base.command_line import parser_of
from shardhash.base.options import DESCRIBE, Described, Options
from shardhash.base.parser import did_you_mean

PROGRAMS = {
    "serve": ("shardhash.server.cli", "main", "run a server"),
    "edge": ("shardhash.edge.cli", "main", "have a small server on this machine, started on demand; print its address"),
    "config": ("shardhash.server.config", "main", "show the settings in force and where they come from; check a file"),
    "client": ("shardhash.client.cli", "main", "ask a server: hashes, users, statistics, garbage collection"),
    "top": ("shardhash.client.top", "main", "watch a server in the terminal"),
    "gc": ("shardhash.client.gc", "main", "remove what no sstate cache holds and nobody asks for"),
    "snapshot": ("shardhash.admin.cli", "snapshot", "have a running server write a snapshot now"),
    "verify": ("shardhash.admin.cli", "verify", "check every file of a data directory or a backup"),
    "repair": ("shardhash.admin.cli", "repair", "make a damaged data directory whole again"),
    "backup": ("shardhash.admin.cli", "backup", "copy what a running or stopped server holds"),
    "restore": ("shardhash.admin.cli", "restore", "make a data directory of a backup, or go back in time"),
    "dump": ("shardhash.admin.cli", "dump", "write a data directory or a backup as JSON Lines"),
    "load": ("shardhash.admin.cli", "load", "read JSON Lines into a data directory"),
    "import": ("shardhash.moving.cli", "import_", "bring the data of BitBake's own server"),
    "export": ("shardhash.moving.cli", "export", "write a database that BitBake's own server serves"),
    "migrate": ("shardhash.database.cli", "migrate", "make or upgrade the tables of a database (serve --store)"),
    "copy": ("shardhash.database.cli", "copy", "copy everything between a data directory and a database"),
    "completion": ("shardhash.cli", "completion", "print a script that completes commands and options in a shell"),
}
"""For each subcommand the module and the function that run it, and what it is for."""

_COMPLETION_EXAMPLES = """\
examples:
  bash:  shardhash completion bash >/etc/bash_completion.d/shardhash     (or: source <(shardhash completion bash))
  zsh:   shardhash completion zsh >/usr/local/share/zsh/site-functions/_shardhash
  fish:  shardhash completion fish >~/.config/fish/completions/shardhash.fish
"""

USAGE = "usage: shardhash COMMAND [OPTIONS]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `shardhash`; its exit status: 2 when it was called wrongly."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name in PROGRAMS:
        module, function, _ = PROGRAMS[name]
        return _run(getattr(importlib.import_module(module), function), rest[:-1])
    if name == "--version":
        print(f"shardhash {__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        print(_help())
        return 0
    print(f"{USAGE}\nshardhash: error: {_wrong(name)}", file=sys.stderr)
    return 2


def _wrong(name: str) -> str:
    """What is wrong with what stands where a command should."""
    if not name:
        return "a command is missing; see shardhash --help"
    if not name.startswith("-"):
        from shardhash.client.cli import COMMANDS

        if name in {command.name for command in COMMANDS}:
            return f"{name} is a command of the client: shardhash client {name} ..."
        return f"there is no command {name!r}{did_you_mean(name, PROGRAMS) or '; see shardhash --help'}"
    for command in PROGRAMS:
        if (found := _described(command)) is not None and found.options.parser.knows(name):
            return f"{command} is missing: shardhash {command} {name.partition('=')[0]} ..."
    return f"a command is missing before {name}; see shardhash --help"


def _described(command: str) -> Described | None:
    """What a command takes."""
    module, function, _ = PROGRAMS[command]
    try:
        getattr(importlib.import_module(module), function)(DESCRIBE)
    except Described as described:
        return described
    return None


def _run(program: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """A program's exit status: 1, without a traceback, where the reader of standard output left (``| head``)."""
    try:
        status = program(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            raise  # another pipe than standard output
        # What is left goes nowhere, or the interpreter would complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def completion(arguments: Sequence[str]) -> int:
    """``shardhash completion``."""
    text = "Print a script that has a shell complete the commands and options of shardhash."
    known = Options(parser_of("completion", text, _COMPLETION_EXAMPLES, usage=None))
    known.parser.add_argument("shell", metavar="bash|zsh|fish", choices=("bash", "zsh", "fish"), help="which shell")
    given = known.parse(arguments)
    from shardhash.base import completion as shells

    commands = {}
    for name, (_, _, text) in PROGRAMS.items():
        if (described := _described(name)) is not None:
            commands[name] = shells.describe_command(text, described.options)
    print({"bash": shells.bash, "zsh": shells.zsh, "fish": shells.fish}[given.shell](commands), end="")
    return 0


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {text}" for name, (_, _, text) in PROGRAMS.items())
    return f"""{USAGE}

A hash equivalence server for BitBake builds, and its tools.

commands:
{commands}

Each has a --help of its own. The shortest way to a server and an answer:

  shardhash serve --bind 127.0.0.1:8686 &
  shardhash client --address 127.0.0.1:8686 ping{_operators()}"""


def _operators() -> str:
    """Where an installed package has its runbook and units; "" in a checkout."""
    folder = Path(sys.prefix) / "share" / "shardhash"
    if not (folder / "runbook.md").exists():
        return ""
    return f"\n\nRunbook, units, container files, dashboard, alerts and the BitBake layer are in {folder}."
