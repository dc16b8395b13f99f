"""Rates: the requests and bytes that a host and a user may send a second. Who sends more waits; nothing is refused.

A connection draws an advance from the buckets of its host and its user, a `Purse`, and asks them again only when that
is spent: between, a request costs two subtractions. While it waits, its requests stay where they are, and from some
number on nothing more is read from it. A wait ends within seconds, so that no build fails for being fast; but whoever
sent more than a connection draws in advance, as in one long message, waits until all of that is paid: two hundred
connections that send 4 MB each would else pay for five seconds of their gigabyte.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shardhash.coordinator.buckets import Buckets
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits

SPAN = 10.0
"""Seconds for which a rate may be saved up, so that a wave of a build does not wait."""
PATIENCE = 5.0
"""Seconds that a connection waits at most for small requests; stock clients give up after 30."""
DEBT = 600.0
"""Seconds for which may be owed: the most that a connection waits after long ones."""
ARRIVALS_SPAN = 2.0
"""Seconds for which new connections may be saved up: a farm starts again all at once."""
REQUESTS = 64.0
BYTES = 256.0 * 1024
"""What a connection draws in advance."""
TOGETHER = 16
"""Lines of a stream, or hashes of a batch, that count as a request, beside the one that they came in."""


class Purse:
    """What a connection may still ask. `requests` and `bytes` are drawn down by its session; then `refill` is due."""

    __slots__ = ("_group", "_rates", "_user", "bytes", "requests")

    def __init__(self, rates: Rates, group: str) -> None:
        self.requests = 0.0
        self.bytes = 0.0
        self._rates = rates
        self._group = group
        self._user: str | None = None

    @property
    def empty(self) -> bool:
        """Whether the host or the user sent enough for a while."""
        return self.requests <= 0 or self.bytes <= 0

    def refill(self, user: str | None, peer: str) -> float:
        """Draw more; the seconds to wait before anything else is answered. `user`: who it acts as now."""
        self._user = user
        requests, for_requests = self._rates.draw("requests", self._group, user, peer, 1.0 - self.requests, REQUESTS)
        size, for_bytes = self._rates.draw("bytes", self._group, user, peer, 1.0 - self.bytes, BYTES)
        self.requests += requests
        self.bytes += size
        return max(for_requests, for_bytes)

    def refill_at_once(self, user: str | None, peer: str) -> bool:
        """Draw more if nobody has to wait for it; whether so."""
        ready = self._rates.ready
        due = (("requests", 1.0 - self.requests), ("bytes", 1.0 - self.bytes))
        return all(ready(what, self._group, user, least) for what, least in due) and not self.refill(user, peer)

    def close(self) -> None:
        """Give back what is left, or pay what is owed."""
        self._rates.give_back("requests", self._group, self._user, self.requests)
        self._rates.give_back("bytes", self._group, self._user, self.bytes)
        self.requests = self.bytes = 0.0


class Rates:
    """The buckets of all hosts and users. `limits` may change."""

    def __init__(
        self, limits: ServerLimits, complaints: Complaints, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._complaints = complaints
        names = ("peer_requests", "user_requests", "peer_bytes", "user_bytes")
        self._buckets = {limit: Buckets(SPAN, DEBT, clock) for limit in names}
        self._buckets["peer_arrivals"] = Buckets(ARRIVALS_SPAN, PATIENCE, clock)

    def purse(self, group: str) -> Purse:
        """Of a new connection from a host."""
        return Purse(self, group)

    def arrive(self, group: str, peer: str) -> float:
        """A new connection of a host; the seconds to wait before it is served."""
        return self._draw("peer_arrivals", group, peer, 1.0, 1.0, "opens more than {} connections a second")[1]

    def charge(self, group: str, peer: str) -> float:
        """One request of a host that has no purse; the seconds to wait before it is answered."""
        return self.draw("requests", group, None, peer, 1.0, 1.0)[1]

    def draw(
        self, what: str, group: str, user: str | None, peer: str, least: float, most: float
    ) -> tuple[float, float]:
        """Take from the buckets of a host and a user, between `least` and `most`; the amount, and seconds to wait.

        It takes more than `most` if `least` is more; who did so waits until all that is owed is paid.
        """
        longest = PATIENCE if least <= most else DEBT
        if user is None:
            drawn, wait = self._draw(f"peer_{what}", group, peer, least, most)
            return drawn, min(wait, longest)
        lent, for_user = self._draw(f"user_{what}", user, peer, least, most)
        drawn, for_peer = self._draw(f"peer_{what}", group, peer, least, lent)
        self._give_back(f"user_{what}", user, lent - drawn)
        return drawn, min(max(for_user, for_peer), longest)

    def ready(self, what: str, group: str, user: str | None, least: float) -> bool:
        """Whether so much can be drawn without a wait."""
        keys = {f"peer_{what}": group} if user is None else {f"peer_{what}": group, f"user_{what}": user}
        return not any(
            self._buckets[limit].wait(key, getattr(self.limits, limit), least) for limit, key in keys.items()
        )

    def _draw(self, limit: str, key: str, peer: str, least: float, most: float, does: str = "") -> tuple[float, float]:
        rate = getattr(self.limits, limit)
        drawn, wait = self._buckets[limit].draw(key, rate, least, most)
        if wait:
            does = (does or f"sends more than {{}} {limit[5:]} a second").format(f"{rate:,.0f}")
            self._complaints.add(limit, f"{peer}: slowed down: {key} {does}; --limit {limit}=N allows more")
        return drawn, wait

    def give_back(self, what: str, group: str, user: str | None, amount: float) -> None:
        """Return what was drawn and not used."""
        self._give_back(f"peer_{what}", group, amount)
        if user is not None:
            self._give_back(f"user_{what}", user, amount)

    def _give_back(self, limit: str, key: str, amount: float) -> None:
        self._buckets[limit].give_back(key, getattr(self.limits, limit), amount)
