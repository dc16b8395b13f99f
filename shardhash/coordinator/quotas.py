"""Quotas: the rows, bytes of siginfo and methods that a user may store in a day, or a host of those who do not log in.

Days are those of UTC. What was stored is counted here as it is reported, whether a row was new or not, and kept in a
file of the data directory (server/room_watch.py), so that a restart does not begin the day anew; a crash forgets some
seconds. With all in memory, or in a database, each server counts from its own start.

A bounded number of users, and of hosts, is known. Past that those who stored least are forgotten, and whoever is
counted anew begins with as much as the one of them who stored most: an enemy with a million networks can have nobody's
count forgotten, its own as little as a victim's, and to have an innocent refused it has to store thousands of quotas in
a day.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from shardhash.coordinator.callers import Caller
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits
from shardhash.wire.rows import Report

DAY = 86_400
MOST_KEYS = 10_000
"""Users whose day is known, and as many hosts."""
FORGOTTEN = MOST_KEYS // 10
"""So many of them are forgotten at one time; 3 ms."""
MOST_KEPT = 2_000
"""Of these, those that a restart remembers: the ones with the most rows."""

LOOKED_AT_ONCE = 1000
"""Users whose rows are compared in a step; 0.5 ms."""
DUMPED_AT_ONCE = 20
"""Users who are dumped in a step; 3 ms if each has a thousand methods."""

_UNITS = {"rows": "rows", "siginfo": "bytes of siginfo", "methods": "different methods"}
_LIMITS = {who: [(f"{who}_{what}", unit) for what, unit in _UNITS.items()] for who in ("user", "peer")}
"""The limits of a user and of a host, and what they count."""


@dataclass(slots=True)
class _Used:
    rows: int = 0
    siginfo: int = 0
    methods: set[str] = field(default_factory=set)
    """Hashes of their names."""


class Quotas:
    """What everybody stored today. `limits` may change; `clock` gives seconds since 1970 UTC."""

    def __init__(self, limits: ServerLimits, complaints: Complaints, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self.changed = False
        """Whether anything was counted since `dump`."""
        self.saving = asyncio.Lock()
        """For who writes them to a file."""
        self._complaints = complaints
        self._clock = clock
        self._day = 0
        self._begun = self._ends = 0.0
        """When this day began and ends, seconds since 1970 UTC."""
        self._used: dict[str, dict[str, _Used]] = {}
        self._floor: dict[str, tuple[int, int]] = {}
        self._begin()

    def take(self, caller: Caller, reports: Sequence[Report]) -> str | None:
        """Count what somebody is about to store; if that is too much, nothing is counted, and it says why, in words."""
        over = self.count(caller, reports)
        return None if over is None else self._refuse(_who(caller)[1], *over)

    def count(self, caller: Caller, reports: Sequence[Report]) -> tuple[str, str] | None:
        """The same without words, which nobody hears of: the limit that would be passed, and its unit."""
        who, name = _who(caller)
        used = self._of(who, name)
        rows, siginfo = used.rows + len(reports), used.siginfo + _siginfo(reports)
        methods = {method_id(method) for method in {report.method for report in reports}} - used.methods
        for value, (limit, unit) in zip((rows, siginfo, len(used.methods) + len(methods)), _LIMITS[who], strict=True):
            if value > getattr(self.limits, limit):
                return limit, unit
        used.rows, used.siginfo = rows, siginfo
        used.methods |= methods
        self.changed = True
        return None

    def count_one(self, caller: Caller, report: Report) -> bool:
        """The same for one report, in half the time; whether it may be stored."""
        user = caller.identity.username
        used = self._used["peer"].get(caller.group) if user is None else self._used["user"].get(user)
        if (
            used is None
            or method_id(report.method) not in used.methods
            or not self._begun <= self._clock() < self._ends
        ):
            return self.count(caller, [report]) is None
        limits, rows, siginfo = self.limits, used.rows + 1, used.siginfo
        if report.outhash_siginfo is not None:
            siginfo += len(report.outhash_siginfo)
        if user is None:
            fits = rows <= limits.peer_rows and siginfo <= limits.peer_siginfo
        else:
            fits = rows <= limits.user_rows and siginfo <= limits.user_siginfo
        if fits:
            used.rows, used.siginfo = rows, siginfo
            self.changed = True
        return fits

    def _refuse(self, name: str, limit: str, unit: str) -> str:
        most = getattr(self.limits, limit)
        text = (
            f"{name} stores no more than {most:,} {unit} in a day, the server's limit {limit}: reports are not stored"
            f" until midnight UTC; --limit {limit}=N allows more"
        )
        self._complaints.add(limit, text)
        return text

    def give_back(self, caller: Caller, reports: Sequence[Report]) -> None:
        """They were not stored after all."""
        used = self._of(*_who(caller))
        used.rows = max(0, used.rows - len(reports))
        used.siginfo = max(0, used.siginfo - _siginfo(reports))

    def dump(self) -> Generator[None, None, list[bytes]]:
        """The day, as JSON in pieces, which this returns after some steps."""
        self.changed = False
        day, everybody = self._day, self._used
        most: list[tuple[int, str, str]] = []
        for who, known in everybody.items():
            for number, name in enumerate(list(known), 1):
                used = known.get(name)
                if used is not None:  # who stores least may be forgotten meanwhile
                    add = heapq.heappush if len(most) < MOST_KEPT else heapq.heappushpop
                    add(most, (used.rows, who, name))
                if number % LOOKED_AT_ONCE == 0:
                    yield
        dumped = [b'{"day": %d, "used": {' % day]
        for number, (_, who, name) in enumerate(most, 1):
            used = everybody[who].get(name)
            if used is not None:
                comma = ", " if len(dumped) > 1 else ""
                value = json.dumps([used.rows, used.siginfo, sorted(used.methods)])
                dumped.append(f"{comma}{json.dumps(f'{who}:{name}')}: {value}".encode())
            if number % DUMPED_AT_ONCE == 0:
                yield
        return [*dumped, b"}}"]

    def load(self, dumped: Any) -> None:
        """Go on with what `dump` gave, once read, if it is of today. Raises ValueError, KeyError or TypeError else."""
        if int(dumped["day"]) != self._today():
            return
        for key, (rows, siginfo, methods) in dumped["used"].items():
            who, _, name = key.partition(":")
            self._used[who][name] = _Used(int(rows), int(siginfo), set(map(str, methods)))

    def _today(self) -> int:
        return int(self._clock() // DAY)

    def _begin(self) -> None:
        self._day = self._today()
        self._begun, self._ends = float(DAY * self._day), float(DAY * (self._day + 1))
        self._used = {who: {} for who in _LIMITS}
        self._floor = dict.fromkeys(_LIMITS, (0, 0))
        """Rows and bytes of siginfo with which those who are not known begin."""

    def _of(self, who: str, name: str) -> _Used:
        if not self._begun <= self._clock() < self._ends:
            self._begin()
        known = self._used[who]
        used = known.get(name)
        if used is None:
            if len(known) >= MOST_KEYS:
                self._forget_least(who)
            used = known[name] = _Used(*self._floor[who])
        return used

    def _forget_least(self, who: str) -> None:
        known = self._used[who]
        rows, siginfo = (max(1, getattr(self.limits, limit)) for limit, _ in _LIMITS[who][:2])
        least = sorted(known, key=lambda name: max(known[name].rows / rows, known[name].siginfo / siginfo))
        gone = [known.pop(name) for name in least[:FORGOTTEN]]
        self._floor[who] = (max(of.rows for of in gone), max(of.siginfo for of in gone))


def _who(caller: Caller) -> tuple[str, str]:
    user = caller.identity.username
    return ("peer", caller.group) if user is None else ("user", user)


def _siginfo(reports: Iterable[Report]) -> int:
    size = 0
    for report in reports:
        if report.outhash_siginfo is not None:
            size += len(report.outhash_siginfo)
    return size


@lru_cache(1024)
def method_id(name: str) -> str:
    """What is kept of a method's name: 64 bits of a hash, because names may be long."""
    return blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
