"""Where an edge keeps its data, and whether it may lie there."""

from __future__ import annotations

import getpass
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from shardhash.base.mounts import file_system_of, is_shared
from shardhash.base.owners import describe, user_name
from shardhash.errors import ConfigError

SUFFIX = ".shardhash"
"""Behind the name of an sstate cache: not in it, where scripts delete what is old."""


def find_place(data: str | None, sstate: str | None, environment: Mapping[str, str]) -> Path:
    """The folder, absolute: the one given, the one beside an sstate cache, or that of the user. Raises ConfigError."""
    if data is not None and sstate is not None:
        raise ConfigError("--data and --sstate both say where the data is to be; give one of them")
    directory = Path(data).absolute() if data else _beside(sstate) if sstate else _usual(environment)
    if not str(directory).isprintable():
        raise ConfigError(f"{str(directory)!r} has characters that no address can have; give another --data")
    return directory


def _beside(sstate: str) -> Path:
    cache = Path(sstate).resolve()  # however a cache is called, it has one server
    if not cache.name:
        raise ConfigError(f"--sstate {sstate}: there is nothing beside the root; give --data DIR")
    return cache.with_name(cache.name + SUFFIX)


def _usual(environment: Mapping[str, str]) -> Path:
    try:
        return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute() / "shardhash"
    except RuntimeError:
        raise ConfigError("this user has no home directory; give --data DIR, or --sstate DIR") from None


def check_place(directory: Path) -> None:
    """Raise ConfigError when the data must not lie there.

    That is on a file system that other machines may have, too, and in a folder where other users could put a server of
    theirs: builds would believe what that says.
    """
    try:
        kind = file_system_of(directory)
        found = directory.stat() if directory.exists() else None
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {directory}: {describe(error, directory)}") from None
    if found is not None and found.st_uid != os.geteuid():
        raise ConfigError(
            f"{directory} belongs to {user_name(found.st_uid)}, and an edge is of one user, {user_name(os.geteuid())};"
            " give another --data, or use the address of a server for all (shardhash serve)"
        )
    if found is not None and found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"everybody may write into {directory}, and put another server there: chmod o-w it")
    if is_shared(kind):
        raise ConfigError(why_not(directory, kind))


def why_not(directory: Path, kind: str) -> str:
    """What to say of a folder on a file system of this type, and what to do."""
    here = shlex.quote(f"/var/tmp/shardhash-{_user()}")
    return (
        f"{directory} is on a file system of type {kind}, which other machines may have, too: its locks do not keep a"
        " server there from writing the same files, and what is synced may not be on a disk. Keep the data on a disk"
        f" of this machine: --data {here}. For several machines, run one server that all of them reach (shardhash"
        " serve), and have the edge of each share through it: --upstream ADDRESS"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "edge"
