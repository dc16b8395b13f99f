"""Services: what all sessions of a server share."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from functools import partial

from shardhash.base.turns import Turns
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.collecting import Collections
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.counters import Counters
from shardhash.coordinator.exploring import Exploring
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.queues import FairQueue
from shardhash.coordinator.quotas import Quotas
from shardhash.coordinator.rates import Rates
from shardhash.coordinator.room import Room
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.coordinator.whole import Whole
from shardhash.stores.interface import Store

MOST_WAITING = 20
"""Removals, marks and sweeps of one host that may wait at one time."""
ROWS_AT_ONCE = 2
"""Rows with siginfo that are read from workers at one time."""
BULKS_AT_ONCE = 3
"""Large batches (blocks.BULK) that are answered at one time."""


@dataclass(frozen=True, slots=True)
class Services:
    """Services that all sessions of a server share."""

    store: Store
    users: Users
    stats: Stats
    counters: Counters = field(default_factory=Counters)
    complaints: Complaints = field(init=False)
    rates: Rates = field(init=False)
    quotas: Quotas = field(init=False)
    room: Room = field(init=False)
    exploring: Exploring = field(init=False)
    collections: Collections = field(init=False)
    whole: Whole = field(init=False)
    """What all coordinators of the server did."""
    slow: float = math.inf
    """Seconds from which on a request is logged as slow."""
    connected: set[Caller] = field(default_factory=set)
    """Logged-in callers, by user."""
    turns: Turns = field(default_factory=Turns)
    upkeep: FairQueue = field(
        default_factory=lambda: FairQueue(MOST_WAITING, "too many removals of this host wait; try again later")
    )
    """For what looks at everything."""
    bulk: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BULKS_AT_ONCE))
    """For batches of more than BULK hashes."""
    rows: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ROWS_AT_ONCE))
    """For rows with their siginfo, which may be large."""

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)  # the one way to, in what does not change
        put("exploring", Exploring(self.store))
        put("collections", Collections(self.store))
        put("whole", Whole(self.counters, self.stats))
        put("complaints", Complaints(self.counters.limits_hit))
        limits = ServerLimits()
        put("rates", Rates(limits, self.complaints))
        put("quotas", Quotas(limits, self.complaints))
        put("room", Room(limits, self.complaints))
        self.users.guesses.complaints = self.complaints

    def use_whole(self, whole: Whole, collections: Collections | None = None) -> None:
        """There are other coordinators, and perhaps the collections are theirs. Call it before anything is served."""
        object.__setattr__(self, "whole", whole)
        if collections is not None:
            object.__setattr__(self, "collections", collections)

    def set_limits(self, limits: ServerLimits) -> None:
        """Take over other limits, from now on."""
        self.rates.limits = self.users.guesses.limits = self.quotas.limits = self.room.limits = limits
