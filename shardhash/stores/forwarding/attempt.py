"""An attempt: some reports are told to the upstream, and what became of each.

A report counts as *accepted* when the upstream answered it and afterwards knows a mapping of its task: who may not
report there, or comes in at a read-only address, is answered all the same, and nothing is stored.

What is not accepted is told again in halves, down to the single report, which is then a *suspect*: it may be at fault,
or the upstream takes nothing at present (it is read-only, a right is missing, a quota is used up). Only an upstream
that stores something after it has refused the suspects proves that they are to blame; `Sender` sees to that.

A connection that breaks while the upstream answers a question right afterwards counts as a refusal, too: a message that
is too long, for example, is not answered. But it proves less, since networks break as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from shardhash.errors import InvokeError
from shardhash.stores.chained.pool import PROBE_METHOD
from shardhash.stores.forwarding.records import request_of
from shardhash.wire.rows import Report

MOST_SUSPECTS = 10
"""Suspects of one attempt, after which it ends: more would not say more."""
NOT_STORED = (
    "it answers reports without storing them: the address is read-only, or whom this server logs in as there (nobody,"
    " unless --upstream-user or ~/.netrc says so) lacks @report"
)


class Suspicion(NamedTuple):
    """Why a report was not accepted; `unsure`: it may be otherwise the next time."""

    why: str
    unsure: bool = False


class Peer(Protocol):
    """What is asked of the upstream; `AsyncClient` is one."""

    async def report_unihash_batch(self, reports: Sequence[dict[str, Any]]) -> list[str]:
        """See AsyncClient."""

    async def report_unihash_equiv_batch(self, mappings: Sequence[dict[str, Any]]) -> list[str]:
        """See AsyncClient."""

    async def get_unihash_batch(self, args: Sequence[tuple[str, str]]) -> list[str | None]:
        """See AsyncClient."""


class Attempt:
    """Reports, by their place in `reports`. Raises ConnectionError when the upstream goes away meanwhile."""

    def __init__(self, peer: Peer, reports: Sequence[Report]) -> None:
        self._peer = peer
        self._reports = reports
        self.accepted: dict[int, str] = {}
        """The unihash that the upstream answered."""
        self.suspects: dict[int, Suspicion] = {}

    async def run(self) -> None:
        """Tell all, until too many are refused."""
        await self._tell(range(len(self._reports)))

    def report(self, place: int) -> Report:
        """The report at a place."""
        return self._reports[place]

    @property
    def tried(self) -> int:
        """So many from the first on were told."""
        for place in range(len(self._reports)):
            if place not in self.accepted and place not in self.suspects:
                return place
        return len(self._reports)

    async def _tell(self, places: Sequence[int]) -> None:
        if not places or len(self.suspects) >= MOST_SUSPECTS:
            return
        left, why = await self._tell_once(places)
        if len(places) == 1:
            self.suspects.update(dict.fromkeys(left, why))
            return
        half = (len(left) + 1) // 2
        await self._tell(left[:half])
        await self._tell(left[half:])

    async def _tell_once(self, places: Sequence[int]) -> tuple[Sequence[int], Suspicion]:
        """Those that were not accepted, and why."""
        reports = [self._reports[place] for place in places]
        try:
            unihashes = await report_all(self._peer, reports)
            known = await self._peer.get_unihash_batch([(report.method, report.taskhash) for report in reports])
        except (InvokeError, ValueError) as error:  # ValueError: a name that the protocol cannot ask for
            return places, Suspicion(str(error))
        except ConnectionError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            await self._peer.get_unihash_batch([(PROBE_METHOD, "0" * 64)])
            size = sum(len(report.outhash_siginfo or "") for report in reports) >> 10
            why = f"the connection breaks when it is told ({error}); is it too long for the upstream, with {size} KiB?"
            return places, Suspicion(why, unsure=True)
        left = []
        for place, unihash, there in zip(places, unihashes, known, strict=True):
            if there is None:
                left.append(place)
            else:
                self.accepted[place] = unihash
        return left, Suspicion(NOT_STORED, unsure=True)  # it asks a replica that is behind, for example


async def report_all(peer: Peer, reports: Sequence[Report]) -> list[str]:
    """Tell reports and equivalences, in this order; the unihash that is in force there for each."""
    unihashes: list[str] = []
    for equivalent, some in groupby(reports, lambda report: not report.outhash):
        if equivalent:
            mappings = [{"method": one.method, "taskhash": one.taskhash, "unihash": one.unihash} for one in some]
            unihashes += await peer.report_unihash_equiv_batch(mappings)
        else:
            unihashes += await peer.report_unihash_batch(list(map(request_of, some)))
    return unihashes
