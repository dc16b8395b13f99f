"""Refusals of permission, in words that say whose a file is and who asked."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def describe(error: OSError, path: Path | None = None) -> str:
    """An error of the system, and what to do about one of permission. `path` when the error does not know it."""
    text = error.strerror or str(error)
    if not isinstance(error, PermissionError):
        return text
    name = error.filename if isinstance(error.filename, str | os.PathLike) else path
    owner = _owner_of(Path(os.fspath(name))) if name is not None else None
    belongs = "" if owner is None else f"; {owner[0]} belongs to {_user(owner[1])}"
    return f"{text}{belongs}; this process runs as {_user(os.geteuid())}: run it as the user who owns the data"


def _owner_of(path: Path) -> tuple[Path, int] | None:
    """The path, or the first folder above it that there is, and its owner."""
    for known in (path, *path.absolute().parents):
        try:
            return known, known.lstat().st_uid
        except OSError:
            continue
    return None


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return f"user {number}"
