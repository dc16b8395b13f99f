"""The settings of an edge: those of a small server, at an address of this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from shardhash.base.options import Option
from shardhash.coordinator import permissions
from shardhash.coordinator.bind import Bind
from shardhash.errors import ConfigError
from shardhash.server.cli import settings_of
from shardhash.server.option_table import TABLE
from shardhash.server.settings import Settings
from shardhash.server.sizing import shards_of
from shardhash.shard.storage.layout import EDGE_LOG, EDGE_SOCKET
from shardhash.wire.address import Address, parse_bind

ANSWER_CACHE = 8 << 20
"""Bytes of answers at hand; for the builds of one machine."""
UPSTREAM = tuple(one for one in TABLE["upstream"] if one.flag != "--forward")
"""The options of a server that an edge takes."""


def bind_of(directory: Path, text: str | None) -> Bind:
    """The address to listen at, with its rules: the one given, or a socket beside the data. Raises ConfigError.

    Whoever reaches a socket in the user's own folder may do everything; by TCP every user of the machine may come, and
    look up and report.
    """
    if text is None:
        return Bind(Address("unix", path=str(directory / EDGE_SOCKET)), False, permissions.ANONYMOUS_DEFAULT)
    address, rules = parse_bind(text)
    if not address.local:
        raise ConfigError(
            f"--bind {text}: an edge is for this machine alone: write 127.0.0.1:PORT, ws://127.0.0.1:PORT or"
            " unix://PATH; for others run `shardhash serve`"
        )
    if address.kind == "unix":
        address = address._replace(path=str(Path(address.path).absolute()))
    usual = permissions.ANONYMOUS_DEFAULT if address.kind == "unix" else permissions.ANONYMOUS_FAR
    given = permissions.parse_anonymous(rules["anon"]) if "anon" in rules else usual
    return Bind(address, "read-only" in rules, given)


def make_settings(given: argparse.Namespace, directory: Path, bind: Bind) -> Settings:
    """The settings of a server; `given` has the values of `edge_options`. Raises ConfigError."""
    values = {one.name: one.resolve(None, {}).value for one in _all_options()}
    values |= {one.name: getattr(given, one.name) for one in UPSTREAM}
    values |= {"data": str(directory), "workers": shards_of(directory) or 1, "answer_cache": ANSWER_CACHE}
    values["coordinators"] = 1  # which alone knows when nobody is connected any more
    values["log"] = given.log
    values["forward"] = bool(given.upstream) and not given.no_forward
    settings = settings_of(argparse.Namespace(**values), remarks=())
    return replace(
        settings,
        binds=(bind,),
        idle=given.idle,
        log_file=None if given.foreground else directory / EDGE_LOG,
    )


def _all_options() -> Iterable[Option]:
    return (one for group in TABLE.values() for one in group)
