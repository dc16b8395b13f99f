"""Quarantines as every store keeps them: an entry each, and parts with the mappings and outhashes that it set aside."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from shardhash.errors import InvokeError
from shardhash.stores.interface import Chosen
from shardhash.wire.imports import ImportedMapping

MOST: Final = 20_000
"""Rows that one quarantine may choose."""
PART: Final = 500
"""Mappings, or outhashes, of a part."""

Restore: TypeAlias = Callable[[Sequence[ImportedMapping]], Awaitable[list[str]]]
"""Puts mappings back, each unless there is one."""


def part_name(name: str, number: int) -> str:
    """The name of a part of a quarantine."""
    return f"{name}.{number}"


def parts_of(mappings: Sequence[tuple[str, str, str]], outhashes: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The parts of (method, taskhash, unihash) and (method, outhash)."""
    return [
        {"mappings": mappings[start : start + PART], "outhashes": outhashes[start : start + PART]}
        for start in range(0, max(len(mappings), len(outhashes)), PART)
    ]


def entry_of(note: Mapping[str, Any], chosen: Chosen, parts: int, *, done: bool) -> dict[str, Any]:
    """The entry of a new quarantine. `done`: its mappings are taken away."""
    return {
        **note, "name": secrets.token_hex(8), "rows": chosen.rows, "mappings": chosen.mappings,
        "outhashes": chosen.outhashes, "shared": chosen.shared, "parts": parts, "done": done,
    }  # fmt: skip


def newest_first(entries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All quarantines, as `Quarantine.entries` gives them."""
    return sorted(entries.values(), key=lambda entry: str(entry["time"]), reverse=True)


def entry_or_refusal(entry: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """The entry of this name. InvokeError when there is none."""
    if entry is None:
        raise InvokeError(f"there is no quarantine {name[:80]!r}; `quarantines` lists them")
    return entry


async def restore_parts(
    entry: Mapping[str, Any], get_part: Callable[[str], Awaitable[Any]], restore: Restore
) -> dict[str, Any]:
    """Put the mappings of a quarantine back; its entry, and how many were ``restored``."""
    restored = 0
    for number in range(entry["parts"]):
        part = await get_part(part_name(entry["name"], number))
        if part is not None:
            answers = await restore([ImportedMapping(*mapping) for mapping in part["mappings"]])
            restored += answers.count("new")
    return {**entry, "restored": restored}
