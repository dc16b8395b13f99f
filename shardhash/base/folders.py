"""Folders that people name: what to say where there is none."""

from __future__ import annotations

from pathlib import Path

from shardhash.errors import ConfigError


def check_folder(path: Path) -> None:
    """ConfigError unless this is a folder."""
    refuse_file(path)
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")


def refuse_file(path: Path) -> None:
    """ConfigError for a file in the place of a data directory, or of a folder above it."""
    for name in (path, *path.parents):
        if name.is_file():
            raise ConfigError(
                f"{name} is a file, not a folder; if it is the old server's database: shardhash import {name} --data"
                " DIR"
            )
