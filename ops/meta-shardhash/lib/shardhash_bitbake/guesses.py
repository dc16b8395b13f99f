"""The unihashes of earlier builds, as guesses for the next one: a JSON file that outlives build directories.

Keys are those of BitBake's own cache, ``MULTICONFIG:RECIPE:TASK``, values ``[TASKHASH, UNIHASH]``. A guess can't make a
result wrong, so builds that share a file need no lock: the last one to write wins, and a file that cannot be read is an
empty one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LIMIT = 200_000
"""Most entries of a file; beyond it, those that this build did not use go."""


class Guesses:
    """The guesses in a file. Without a path there are none, and none are kept."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._saved: dict[str, tuple[str, str]] = {}

    def load(self) -> Mapping[str, tuple[str, str]]:
        """What the file holds."""
        self._saved = {}
        if self._path is not None:
            try:
                found = json.loads(self._path.read_bytes())
            except (OSError, ValueError):
                found = None
            if isinstance(found, dict):
                self._saved = {key: (value[0], value[1]) for key, value in found.items() if _is_entry(value)}
        return self._saved

    def merge(self, unihashes: Mapping[str, tuple[str, str]]) -> None:
        """Add what a build found to the file, if that is new. A file that cannot be written stays as it is."""
        if self._path is None or unihashes.items() <= self._saved.items():
            return
        merged = {**self.load(), **unihashes}
        self._saved = merged if len(merged) <= LIMIT else dict(unihashes)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._saved), encoding="ascii")
            temporary.replace(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()


def _is_entry(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)
