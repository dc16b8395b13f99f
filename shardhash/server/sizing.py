"""How many processes a server has where nobody says so: from the cores, and from what goes with several coordinators.

Several coordinators are the default only where nobody notices but by the speed. Elsewhere there is one, and the reason
is told: page, health and metrics at an address ``ws://``, an upstream, and limits of what one client may take, of which
each coordinator would have a part, all of which somebody may rely on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardhash.base.cores import FEW_CORES, coordinators_for, usable_cores, workers_for
from shardhash.coordinator.limits import OF_ONE
from shardhash.errors import DamageError
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.wire.address import parse_bind


@dataclass(frozen=True, slots=True)
class Sizes:
    """The processes of a server; 0 workers on a database."""

    coordinators: int
    workers: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By the name of the option, why it is so, of each that nobody gave."""
    cores: int = 0
    held: bool = False
    """There is one coordinator though there are cores for several, by no wish of anybody."""

    def notices(self) -> tuple[str, ...]:
        """What the log is to say."""
        if not self.held:
            return ()
        return (f"one coordinator, though there are {self.cores} cores: {self.reasons['coordinators']}",)


def choose_sizes(given: argparse.Namespace, data: Path | None) -> Sizes:
    """The sizes that settings ask for, or that suit them and the cores that may be used."""
    cores, reasons = usable_cores(), {}
    coordinators, held = given.coordinators, None
    if coordinators is None:
        held = _what_takes_one(given)
        coordinators = 1 if held else coordinators_for(cores)
        reasons["coordinators"] = _why(cores, coordinators, held)
    workers = 0 if given.store else given.workers
    if workers is None:
        workers = shards_of(data)
        reasons["workers"] = "as the data directory has"
        if workers is None:
            workers = workers_for(cores, coordinators)
            reasons["workers"] = f"{_counted(cores)} but those of the coordinators"
    return Sizes(coordinators, workers, reasons, cores, held is not None and coordinators_for(cores) > 1)


def shards_of(data: Path | None) -> int | None:
    """The number of workers that a data directory was made for, so that it is not moved around; None for a new one."""
    try:
        manifest = read_manifest(OsFileSystem(), data) if data is not None else None
    except (DamageError, OSError):
        return None  # the start says what is wrong with it
    return None if manifest is None else manifest.shards


def _what_takes_one(given: argparse.Namespace) -> str | None:
    """What goes with one coordinator only, or is otherwise with several; None if nothing is."""
    if given.store:
        return "several servers may share the database (--store) instead"
    if given.upstream:
        return "several and an --upstream do not go together"
    if any(parse_bind(text)[0].kind in ("ws", "wss") for text in given.bind):
        return "with several, ws:// answers no page, health and metrics, which --http does; give --coordinators for it"
    if given.public:
        return "each of several has a part of the limits of a client (--public)"
    if divided := [name for name in OF_ONE if name in {text.partition("=")[0] for text in given.limit}]:
        return f"each of several has a part of the limit {divided[0]}"
    return None


def _why(cores: int, coordinators: int, held: str | None) -> str:
    if held:
        return held
    if cores <= FEW_CORES:
        return f"one up to {FEW_CORES} cores, here {cores}"
    return f"a third of {cores} cores" if coordinators == round(cores / 3) else f"{cores} cores, more is of no use"


def _counted(cores: int) -> str:
    return f"{cores} core{'s' * (cores != 1)}"
