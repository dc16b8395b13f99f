"""A file of settings in TOML: keys named like the flags, at the top level.

::

    bind = [":8686", "ws://:8484,read-only,anon=@read"]
    data = "/var/lib/shardhash"
    snapshot-interval = "30m"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardhash.base.parser import did_you_mean
from shardhash.errors import ConfigError

DEFAULT_FILE = Path("/etc/shardhash.toml")
VARIABLE = "SHARDHASH_CONFIG"
"""Names another file."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read. `name` is how messages call it."""

    name: str
    values: Mapping[str, Any]
    text: str = field(default="", repr=False)

    def place(self, key: str) -> str:
        """Where a key stands, for a message: the file, and the line if it is found."""
        pattern = rf"""^[ \t]*\[?["']?{re.escape(key)}["']?\]?[ \t]*(=|#|$)"""
        found = re.search(pattern, self.text, re.MULTILINE)
        if found is None:
            return self.name
        return f"{self.name}: line {len(self.text[: found.start()].splitlines()) + 1}"

    def unknown(self, known: Mapping[str, Sequence[str]]) -> list[str]:
        """A text for each key that is not in `known`, which maps keys to their variables."""
        return [
            f"{self.place(key)}: {key} is not a setting{_hint(key, found, known)}"
            for key, found in self.values.items()
            if key not in known
        ]


def find_file(environment: Mapping[str, str], named: str | None = None) -> File | None:
    """The file of settings: `named`, else the one that a variable names, else the usual one, if it is there."""
    name = named or environment.get(VARIABLE, "").strip()
    if not name and not DEFAULT_FILE.exists():
        return None
    return read_file(Path(name) if name else DEFAULT_FILE)


def read_file(path: Path) -> File:
    """The settings of a file. ConfigError when it cannot be read, or is no TOML: it says where."""
    import tomllib  # slow to import, and few have a file

    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8, which TOML is written in") from None
    except OSError as error:
        raise ConfigError(f"{path}: the settings cannot be read: {error.strerror or error}") from None
    try:
        return File(str(path), tomllib.loads(text), text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f'{path}: this is no TOML: {error}; write KEY = "TEXT", KEY = NUMBER or KEY = true') from None


def _hint(key: str, found: Any, known: Mapping[str, Sequence[str]]) -> str:
    """A hint at what an unknown key may mean: a section, a variable's name, or a typing error."""
    if isinstance(found, dict):
        return "; the settings stand at the top level, without [sections]"
    for name, variables in known.items():
        if key in variables:
            return f"; in a file it is {name}"
    return did_you_mean(key.replace("_", "-"), known, 0.6) or "; shardhash serve --help names them all"
