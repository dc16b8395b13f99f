"""Undo files: what a command removes, durable before it does.

An undo file is a dump (`shardhash dump`): `shardhash load` takes it into a stopped server's directory, and
`shardhash client undo` into one that runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def keeps_nothing(path: str | Path) -> bool:
    """Whether this is the file of those who want none."""
    return str(path) == os.devnull


class UndoFile:
    """A new undo file. ValueError when there is a file of this name, or when none can be made."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = self._path.open("w" if keeps_nothing(path) else "x", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"{path}: {error.strerror}; name a file that is not there yet. Nothing is removed"
            ) from None
        self.mappings = self.rows = 0
        """How many of each were added."""
        self._named = keeps_nothing(path)
        self._write({"format": "shardhash dump", "version": 1})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _at: TracebackType | None) -> None:
        self._file.close()

    def add_mapping(self, mapping: Mapping[str, Any]) -> None:
        """Add a mapping: method, taskhash, unihash, gc_mark."""
        self.mappings += 1
        self._write({"type": "mapping", **mapping})

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add an outhash row, with the columns of a dump."""
        self.rows += 1
        self._write({"type": "row", **row})

    def sync(self) -> None:
        """Make all that was added durable, and the file's name."""
        self._file.flush()
        if not keeps_nothing(self._path):
            os.fsync(self._file.fileno())
        if not self._named:
            folder = os.open(self._path.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._named = True

    def finish(self) -> None:
        """Write the end, without which a dump is known as cut off, and make it durable."""
        self._write({"type": "end", "entries": 0, "mappings": self.mappings, "rows": self.rows})
        self.sync()

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")


def read_undo_file(path: str | Path) -> Iterator[dict[str, Any]]:
    """The mappings and rows of an undo file. ValueError names the line that is none."""
    with Path(path).open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                kind = line["format"] if number == 1 else line["type"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}: this is not an undo file") from None
            if kind in ("mapping", "row"):
                yield line
