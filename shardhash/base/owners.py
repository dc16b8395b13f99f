"""Explain permission errors: who owns the file, and which user this process runs as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def describe(error: OSError, path: Path | None = None) -> str:
    """The text of an OSError; for a permission error also what to do. `path`: used when the error names none."""
    text = error.strerror or str(error)
    if not isinstance(error, PermissionError):
        return text
    name = error.filename if isinstance(error.filename, str | os.PathLike) else path
    owner = _owner_of(Path(os.fspath(name))) if name is not None else None
    belongs = "" if owner is None else f"; {owner[0]} belongs to {user_name(owner[1])}"
    return f"{text}{belongs}; this process runs as {user_name(os.geteuid())}: run it as the user who owns the data"


def _owner_of(path: Path) -> tuple[Path, int] | None:
    """The path, or its nearest existing parent, and the owner of that."""
    for known in (path, *path.absolute().parents):
        try:
            return known, known.lstat().st_uid
        except OSError:
            continue
    return None


def user_name(number: int) -> str:
    """How messages call the user with this number."""
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return f"user {number}"
