"""Arguments that the commands on a data directory share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shardhash.base import options
from shardhash.base.folders import check_folder
from shardhash.base.options import Options
from shardhash.base.parser import Parser
from shardhash.errors import ConfigError


def command(name: str, description: str, *, existing: bool = True) -> Options:
    """The options of a subcommand, with the data directory that all of them need."""
    known = Options(Parser(f"shardhash {name}", description=description, allow_abbrev=False))
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        convert=existing_folder if existing else Path,
        default=existing_default if existing else options.served_data,
        help=f"the server's data directory (default {options.DEFAULT_DATA}, as for shardhash serve)",
    )
    return known


def existing_folder(text: str) -> Path:
    """Converts the name of a folder that is there."""
    path = Path(text)
    check_folder(path)
    return path


def existing_default(environment: Mapping[str, str]) -> Path:
    """The data directory of this environment's server, which must be there."""
    path = options.served_data(environment)
    if not path.exists():
        raise ConfigError(f"there is no folder {path} (the default); name yours with --data")
    return existing_folder(str(path))
