"""The subcommands that look after a data directory."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shardhash import options
from shardhash.errors import ConfigError, ShardhashError
from shardhash.options import Options


def snapshot(arguments: Sequence[str]) -> int:
    """``shardhash snapshot``."""
    known = _command(
        "snapshot",
        "Have a running server write a snapshot of every shard now, so that its next start is quick. The server finds"
        " it no trouble: lookups and reports go on. (kill -USR1 does the same without waiting.)",
    )
    known.add(
        "--timeout",
        "SHARDHASH_SNAPSHOT_TIMEOUT",
        metavar="TIME",
        convert=options.seconds,
        default=600.0,
        help="how long to wait for it (default 10m)",
    )
    given = known.parse(arguments)
    from shardhash.admin.snapshot import take_snapshot
    from shardhash.shard.fs import OsFileSystem

    try:
        numbers = take_snapshot(OsFileSystem(), given.data, given.timeout, say)
    except ShardhashError as error:
        return _fail("snapshot", error)
    print(f"{len(numbers)} snapshots are written")
    return 0


def say(text: str) -> None:
    """Progress, which is no answer."""
    print(text, file=sys.stderr)


def _command(name: str, description: str) -> Options:
    """The options of a subcommand, with the data directory that all of them need."""
    known = Options(argparse.ArgumentParser(f"shardhash {name}", description=description, allow_abbrev=False))
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        convert=_existing,
        default=options.default_data(os.environ),
        help=f"the server's data directory (default {options.DEFAULT_DATA}, as for shardhash serve)",
    )
    return known


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")
    return path


def _fail(name: str, error: Exception) -> int:
    print(f"shardhash {name}: {error}", file=sys.stderr)
    return 1
