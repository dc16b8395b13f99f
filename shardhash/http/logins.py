"""Logins: users of the page, by a cookie that scripts cannot read and other sites' pages cannot have sent.

The cookie names an entry in memory, which ends after `KEPT` seconds, with the server, by a logout, or when the user is
deleted or gets a new token. What the user may do is always what it may do now (callers.LoggedIn).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from aiohttp import web

from shardhash.coordinator.callers import Caller
from shardhash.coordinator.users import Users

COOKIE = "shardhash"
KEPT = 12 * 3600.0
"""Seconds that a login lasts."""
MOST = 1000
"""Logins that are kept; the oldest ends first."""


@dataclass(slots=True)
class _Login:
    caller: Caller
    ends: float


class Logins:
    """Who is logged in on the page."""

    def __init__(self, users: Users, clock: Callable[[], float] = monotonic) -> None:
        self._users = users
        self._clock = clock
        self._logins: dict[str, _Login] = {}

    async def log_in(self, caller: Caller, username: str, token: str) -> str:
        """Check a user's token and make a login; its name, for the cookie. InvokeError when the token is wrong."""
        # Nothing is awaited between the answer and `add`, so no change of the user falls in between.
        caller.identity, _ = await self._users.authenticate(username, token, caller)
        caller.login = username
        self._users.logged_in.add(caller)
        name = secrets.token_urlsafe(32)
        caller.revoke = lambda _reason: self.log_out(name)
        while len(self._logins) >= MOST:
            del self._logins[next(iter(self._logins))]
        self._logins[name] = _Login(caller, self._clock() + KEPT)
        return name

    def find(self, name: str | None) -> Caller | None:
        """Who a cookie belongs to; None when nobody is logged in by it."""
        login = self._logins.get(name or "")
        if login is not None and login.ends < self._clock():
            self.log_out(name or "")
            return None
        return None if login is None else login.caller

    def log_out(self, name: str) -> None:
        """End a login."""
        self._logins.pop(name, None)


def give_cookie(response: web.Response, name: str, *, secure: bool) -> None:
    """Set the cookie `name`, which the browser sends to this site from its own pages only."""
    response.set_cookie(COOKIE, name, max_age=int(KEPT), path="/", httponly=True, samesite="Strict", secure=secure)


def take_cookie(response: web.Response) -> None:
    """Delete the cookie."""
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
