"""Times of reports that are not stored as they came in: overtaken ones, and ones that are made again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Protocol

from shardhash.link.operations import Granted, Item, Outhash, Retime
from shardhash.link.worker_link import WorkerLink
from shardhash.stores.sharded.clock import Clock


class Timed(Protocol):
    """A report that holds the lock of its outhash."""

    created: int
    """Microseconds since 1970 UTC."""

    @property
    def made_here(self) -> bool:
        """Whether its time is that at which it came in, and not given."""

    @property
    def item(self) -> Item:
        """Its item of the index."""


async def make_later(
    index: WorkerLink, outhash: Outhash, together: Sequence[Timed], granted: Granted, clock: Clock
) -> None:
    """Give reports that those of another coordinator overtook a time behind these, unless their time was given."""
    late = [report for report in together if report.made_here]
    for report, created in zip(late, count(clock(len(late), granted.newest)), strict=False):
        report.created = created
    await retime(index, outhash, [report for report in late if report.item[1] not in granted.older])


async def retime(index: WorkerLink, outhash: Outhash, reports: Sequence[Timed]) -> None:
    """Give index items the times of these reports, of the first of each taskhash."""
    if reports:
        items = {report.item[1]: report.item for report in reversed(reports)}
        await index.request(Retime(*outhash, list(items.values())))
