"""``shardhash config``: the settings that a server would run with, where each comes from, and a check of a file.

What it prints is a file of settings: what somebody set, with its source behind it, and each default as a comment. A
secret is named, never shown. Exit status 0: fine; 1: the checked file is not; 2: called wrongly, or settings are wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shardhash.base.options import DEFAULT, DESCRIBE, Option, Options, Value
from shardhash.base.text import counted
from shardhash.coordinator import limits
from shardhash.errors import ConfigError
from shardhash.server.cli import hide_secrets, read_configuration, server_options
from shardhash.server.settings import Configuration

HIDDEN = "***"
"""What stands for a secret."""
COLUMN = 44
"""Where the sources begin."""

DESCRIPTION = """\
Show the settings with which `shardhash serve` would run here: given the same options and environment, this prints each
setting, and the flag, variable or file it comes from; # stands before what nobody set. Secrets are not shown. The
output is a file for --config. With --check FILE, check such a file, together with the environment: exit status 0 when
a server would start with it, else 1 and everything that is wrong with it.
"""
EXAMPLES = """\
examples:
  shardhash config --bind :8686 >/etc/shardhash.toml
  shardhash config --check /etc/shardhash.toml
  shardhash config --json | jq .settings.bind
"""


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash config`; its exit status."""
    if arguments is not DESCRIBE:
        hide_secrets(arguments)
    known = server_options("config", DESCRIPTION, EXAMPLES)
    known.parser.add_argument("--check", metavar="FILE", help="check this file, and print nothing else")
    known.parser.add_argument("--json", action="store_true", help="print one JSON object, with sources")
    given = known.flags(arguments)
    if given.check is not None:
        return _check(known, given, os.environ)
    try:
        found = read_configuration(known, given, os.environ)
    except ConfigError as error:
        known.parser.error(str(error))
    for warning in found.settings.warnings():
        print(f"shardhash config: {warning}", file=sys.stderr)
    print(json.dumps(_object(known, found), indent=4) if given.json else _text(known, found))
    return 0


def _check(known: Options, given: argparse.Namespace, environment: Mapping[str, str]) -> int:
    given.config = given.check
    try:
        found = read_configuration(known, given, environment)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    for warning in found.settings.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    count = sum(value.source == given.check for value in found.values.values())
    print(f"{given.check}: fine; {counted(count, 'setting of it is', 'settings of it are')} in force")
    return 0


def _in_force(known: Options, found: Configuration) -> dict[str, tuple[Any, str]]:
    """For each key the value as a file holds it, and its source. What was left open has what the server decides."""
    settings = found.settings
    decided = {"workers": settings.workers or None, "coordinators": settings.coordinators, "data": settings.data}
    shown = {}
    for option in known.all():
        value = found.values[option.name]
        if value.source == DEFAULT and option.name in decided:
            value = Value(decided[option.name], DEFAULT)
        shown[option.key] = (_shown(option, value.value), value.source)
    return shown


def _shown(option: Option, value: Any) -> Any:
    return HIDDEN if option.secret and value is not None else option.plain(value)


def _object(known: Options, found: Configuration) -> dict[str, Any]:
    in_force = _in_force(known, found)
    reasons = {known[name].key: why for name, why in found.settings.reasons.items()}
    return {
        "settings": {
            key: {"value": value, "source": source} | ({"why": reasons[key]} if key in reasons else {})
            for key, (value, source) in in_force.items()
        },
        "limits": {name: {"value": value, "source": source} for name, value, source in _limits(found)},
    }


def _limits(found: Configuration) -> Iterator[tuple[str, str, str]]:
    """Name, value and source of each limit that is in force."""
    given, largest, public = (found.values[name] for name in ("limit", "max_message", "public"))
    told = {text.partition("=")[0] for text in given.value}
    for name, value in limits.in_force(found.settings.limits).items():
        if name in told:
            source = given.source
        elif name in ("message", "guest_message") and largest.value is not None:
            source = largest.source
        else:
            source = f"--public ({public.source})" if public.value and public.source != "--public" else public.source
        yield name, value, source


def _text(known: Options, found: Configuration) -> str:
    lines = []
    for option in known.all():
        value, source = _in_force(known, found)[option.key]
        if not option.in_file and source == DEFAULT:
            continue
        line = f"{option.key} = {'' if value is None else json.dumps(value, ensure_ascii=False)}"
        if source == DEFAULT or not option.in_file or option.secret:
            line = "#" + line
        where = "not set" if value is None else source
        if value is not None and option.name in found.settings.reasons:
            where += f": {found.settings.reasons[option.name]}"
        lines.append(f"{line:<{COLUMN}} # {where}")
    lines.append(f"{'## each limit:':<{COLUMN}} # limit = ['NAME=VALUE'] changes one, public = true all")
    lines += [f"{f'##   {name}={value}':<{COLUMN}} # {source}" for name, value, source in _limits(found)]
    return "\n".join(lines)
