"""The life of tokens: until when each works, and when each was last used.

A user's entry whose token ends has ``"lifetime"``, the seconds for which each new token of that user works, and
``"expires"``, seconds since 1970 UTC. Whoever refreshes the own token gets one with the same lifetime; only an
administrator changes it, so that nobody lengthens the own time.

The last use is an entry of kind "use" with the user's name, ``{"salt": hex, "used": seconds since 1970 UTC}``. The salt
tells the token from an earlier one. It is apart from the user's entry, which a login must not write: another server on
the same store may be changing it. It is stored once an hour at most, beside the logins; memory has it to the second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shardhash.base.entry_kinds import USE
from shardhash.base.tasks import BackgroundTasks
from shardhash.base.timestamps import to_iso
from shardhash.base.turns import with_rests
from shardhash.coordinator.callers import LoggedIn
from shardhash.errors import InvokeError, ShardhashError
from shardhash.stores.interface import Store

log = logging.getLogger(__name__)

STORED_EVERY = 3600
"""Seconds between two writes of the last use of one token."""
AT_ONCE = 500
"""Users who are listed in one go; 1 ms."""
LONGEST_TIMER = 3600.0
"""Seconds after which the clock is looked at again: it may be set, and a machine may sleep."""


@dataclass(slots=True)
class _Use:
    salt: str
    last: int
    stored: int


class TokenLife:
    """Use from one event loop. `now` gives seconds since 1970 UTC."""

    def __init__(self, store: Store, logged_in: LoggedIn, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._logged_in = logged_in
        self._now = now
        self._tasks = BackgroundTasks()
        self._uses: dict[str, _Use] = {}
        self._storing: dict[str, asyncio.Future[None]] = {}
        """Of whom a last use is being written."""
        self._timers: dict[str, tuple[asyncio.TimerHandle, int]] = {}

    async def close(self) -> None:
        """End what still runs."""
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.close()

    def fields(self, lifetime: int) -> dict[str, int]:
        """What the entry of a user says whose token is made now; `lifetime` is in seconds, 0 without an end."""
        return {"lifetime": lifetime, "expires": int(self._now()) + lifetime} if lifetime else {}

    def check(self, username: str, entry: Mapping[str, Any]) -> None:
        """Raise InvokeError if a token, which was the right one, has expired."""
        if self._expired(entry):
            raise InvokeError(
                f"Unable to authenticate as {username}: this token expired at {_text(entry['expires'])}; ask an"
                " administrator of the server for a new one (refresh-token)"
            )

    def use(self, username: str, entry: Mapping[str, Any]) -> None:
        """A user logged in by a token: note it, and end such connections when the token does."""
        self.watch(username, entry)
        now, salt = int(self._now()), entry["salt"]
        use = self._uses.get(username)
        if use is None or use.salt != salt:
            self._uses[username] = use = _Use(salt, now, 0)
        use.last = now
        if now - use.stored >= STORED_EVERY:
            use.stored = now
            self._tasks.start(self._store_use(username, use, now), "storing the last use of a token")

    def watch(self, username: str, entry: Mapping[str, Any]) -> None:
        """End the connections of a user that came in by this token when it expires."""
        expires = entry.get("expires")
        timer, at = self._timers.get(username, (None, None))
        if at == expires:
            return
        if timer is not None:
            timer.cancel()
            del self._timers[username]
        if expires is not None:
            self._wait(username, expires)

    def drop(self, username: str) -> None:
        """A user is gone: nothing of it is remembered here, and no last use is written from now on."""
        self._uses.pop(username, None)
        timer, _ = self._timers.pop(username, (None, 0))
        if timer is not None:
            timer.cancel()

    async def forget(self, username: str) -> None:
        """A user is deleted, here: drop it, and what is stored of its last use."""
        self.drop(username)
        while (storing := self._storing.get(username)) is not None:  # else what is being written would come after
            await asyncio.wait([storing])
        if await self._store.get_entry(USE, username) is not None:
            await self._store.set_entry(USE, username, None)

    async def describe(self, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str | None]]:
        """For each user's entry ``{"expires", "used"}``, ISO 8601, UTC, None for never."""
        stored = await self._store.list_entries(USE)
        lives = {}
        async for username, entry in with_rests(entries.items(), AT_ONCE):
            used = _text(self._last(username, entry["salt"], stored))
            lives[username] = {"expires": expiry_of(entry), "used": used}
        return lives

    def _last(self, username: str, salt: str, stored: Mapping[str, Any]) -> int | None:
        here, there = self._uses.get(username), stored.get(username)
        times = [here.last] if here is not None and here.salt == salt else []
        if there is not None and there["salt"] == salt:
            times.append(int(there["used"]))
        return max(times, default=None)

    async def _store_use(self, username: str, use: _Use, now: int) -> None:
        if self._uses.get(username) is not use or username in self._storing:  # the user is gone, or has a new token
            return
        done = self._storing[username] = asyncio.get_running_loop().create_future()
        try:
            await self._store.set_entry(USE, username, {"salt": use.salt, "used": now})
        except ShardhashError as error:  # who logs in does not need it
            log.debug("the last use of the token of %s is not stored: %s", username, error)
        finally:
            del self._storing[username]
            done.set_result(None)

    def _expired(self, entry: Mapping[str, Any]) -> bool:
        expires = entry.get("expires")
        return expires is not None and int(self._now()) >= expires

    def _wait(self, username: str, expires: int) -> None:
        pause = min(max(expires - self._now(), 0.0), LONGEST_TIMER)
        timer = asyncio.get_running_loop().call_later(pause, self._look, username, expires)
        self._timers[username] = timer, expires

    def _look(self, username: str, expires: int) -> None:
        del self._timers[username]
        if self._now() < expires:
            self._wait(username, expires)
        else:
            self._logged_in.expire(username, f"the token of {username} expired")


def expiry_of(entry: Mapping[str, Any]) -> str | None:
    """When the token of an entry expires, ISO 8601, UTC; None for never."""
    return _text(entry.get("expires"))


def _text(moment: int | None) -> str | None:
    return None if moment is None else to_iso(moment * 1_000_000, "seconds")
