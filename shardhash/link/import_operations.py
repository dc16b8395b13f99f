"""Operations by which a worker takes over what another server has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardhash.link.operation import Operation


@dataclass(slots=True)
class TakeMappings(Operation[list[str | tuple[str, list[str]]]]):
    """Insert mappings of another server, method, taskhash and unihash, each unless there is one.

    For each "new", "known", or the unihash in force instead; with it the outhashes of older rows of the taskhash, which
    had no mapping until now, if there are any.
    """

    name = "take-mappings"
    mappings: list[tuple[str, str, str]]


@dataclass(slots=True)
class TakeRows(Operation[list[tuple[str, int]]]):
    """Insert rows of another server (wire/imports.ImportedRow), each unless it is there and at least as old, without a
    mapping.

    For each "new", "older" or "known", and when the row in force was created. The caller holds the lock of their
    outhash.
    """

    name = "take-rows"
    rows: list[tuple[Any, ...]]
