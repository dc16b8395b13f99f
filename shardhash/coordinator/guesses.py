"""Guesses: how often a host, and all hosts together for one user, may log in wrongly; and ask for new tokens.

Over the limit passwords are not even looked at, so that nobody finds one by trying. A token is 64 random characters,
which nobody guesses: it is looked at whatever happens, so that no builder with the right one is kept out by a wrong
one behind the same address. Nor can strangers lock a user out: who logged in from a host before is held to the limit of
that host alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from hashlib import blake2b

from shardhash.coordinator.buckets import Buckets
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.limits import ServerLimits
from shardhash.errors import InvokeError

MINUTE = 60.0
LONGEST_KEY = 80
"""Characters of a name that is kept as it is."""
MOST_KNOWN = 10_000
"""Pairs of host and user that logged in, which are remembered; the oldest is forgotten first."""


def _short(key: str) -> str:
    """A name that somebody made up may be a megabyte, and is kept for a while."""
    return key if len(key) <= LONGEST_KEY else blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _tell_nobody(_group: str, _username: str) -> None:
    pass


class Guesses:
    """Failed logins and new tokens, by the minute. `limits` and `complaints` may change."""

    def __init__(
        self, limits: ServerLimits, complaints: Complaints, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.complaints = complaints
        self._logins = {limit: Buckets(MINUTE, 0.0, clock) for limit in ("peer_logins", "user_logins")}
        self._tokens = {limit: Buckets(MINUTE, 0.0, clock) for limit in ("peer_tokens", "user_tokens")}
        self._known: dict[tuple[str, str], None] = {}
        self.made_known: Callable[[str, str], None] = _tell_nobody
        """Called with a host and a user that logged in from there for the first time: others want to know."""

    def refusal(self, username: str, group: str) -> str | None:
        """Why a host may not try to log in as a user now, in words; None when it may."""
        wait = self._wait(self._logins, "peer_logins", group)
        if wait:
            self.complaints.add(
                "peer_logins",
                f"{group}: logins by password are refused: more than {self.limits.peer_logins} a minute were wrong;"
                " --limit peer_logins=N allows more",
            )
            return self._words(f"too many wrong logins from {group}", wait, "peer_logins")
        if (group, username) in self._known:
            return None
        wait = self._wait(self._logins, "user_logins", username)
        if wait:
            self.complaints.add(
                "user_logins",
                f"logins as {username[:LONGEST_KEY]!r} by password, from hosts where it never logged in, are refused:"
                f" more than {self.limits.user_logins} a minute were wrong; --limit user_logins=N allows more",
            )
            return self._words(f"too many wrong logins as {username}", wait, "user_logins")
        return None

    def failed(self, username: str, group: str) -> None:
        """A login was wrong."""
        self._spend(self._logins, "peer_logins", group)
        if (group, username) not in self._known:
            self._spend(self._logins, "user_logins", username)

    def succeeded(self, username: str, group: str) -> None:
        """A login was right."""
        is_new = (group, username) not in self._known
        self.know([(group, username)])
        if is_new:
            self.made_known(group, username)

    @property
    def known(self) -> list[tuple[str, str]]:
        """The hosts and users that logged in."""
        return list(self._known)

    def know(self, pairs: Iterable[tuple[str, str]]) -> None:
        """These users logged in from these hosts, here or at another coordinator."""
        for pair in pairs:
            self._known.pop(pair, None)
            self._known[pair] = None
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def ask_token(self, username: str, group: str) -> None:
        """A user, at a host, wants a new token for whomever. InvokeError when it had too many."""
        keys = (("user_tokens", username), ("peer_tokens", group))
        for limit, key in keys:
            if wait := self._wait(self._tokens, limit, key):
                words = self._words(f"too many new tokens asked for by {key}", wait, limit)
                self.complaints.add(limit, words)
                raise InvokeError(words)
        for limit, key in keys:
            self._spend(self._tokens, limit, key)

    def _wait(self, buckets: dict[str, Buckets], limit: str, key: str) -> float:
        return buckets[limit].wait(_short(key), getattr(self.limits, limit) / MINUTE, 1.0)

    def _spend(self, buckets: dict[str, Buckets], limit: str, key: str) -> None:
        buckets[limit].draw(_short(key), getattr(self.limits, limit) / MINUTE, 1.0, 1.0)

    def _words(self, what: str, wait: float, limit: str) -> str:
        return (
            f"{what}; try again in {wait:.0f} s (the server's limit {limit} is {getattr(self.limits, limit)} a minute;"
            f" --limit {limit}=N allows more)"
        )
