"""Entries of shard 0, such as users, read some at a time: there may be tens of thousands."""

from __future__ import annotations

import asyncio
from typing import Any

from shardhash.link.operations import ListEntries
from shardhash.link.pages import pages_of
from shardhash.link.worker_link import WorkerLink


async def list_entries(link: WorkerLink, kind: str) -> dict[str, Any]:
    """All entries of a kind, by name."""
    entries: dict[str, Any] = {}
    for page in pages_of(await link.request(ListEntries(kind, values=True))):
        entries.update(page)
        await asyncio.sleep(0)
    return entries


async def entry_names(link: WorkerLink, kind: str) -> list[str]:
    """The names of all entries of a kind."""
    names: list[str] = []
    for page in pages_of(await link.request(ListEntries(kind, values=False))):
        names += [name for name, _ in page]
        await asyncio.sleep(0)
    return names
