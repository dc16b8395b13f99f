"""Users: who there is, what they may do, and the tokens that prove it. Kept as entries of kind "user" in the Store.

An entry is ``{"permissions": [...], "scheme": S, "salt": hex, "hash": hex}``. A token is 64 random characters, so a
keyed hash (BLAKE2b, "blake2b") keeps it; an administrator's password is made by a person, so it takes scrypt, beside
the event loop. Neither can be read back. Comparison takes the same time wherever they differ, and a failed login
waits a second, a missing user like a wrong token. New tokens are limited over all clients, since each costs a write.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from shardhash.coordinator import permissions
from shardhash.coordinator.permissions import ALL, Identity
from shardhash.errors import InvokeError
from shardhash.stores.interface import Store

TOKEN_BYTES = 32
"""Random bytes of a token, which is shown as hex: 64 characters."""
FAILED_LOGIN_PAUSE = 1.0
"""Seconds before a failed login is answered."""
TOKENS_A_SECOND = 10

Sleep: TypeAlias = Callable[[float], Awaitable[None]]
Entry: TypeAlias = dict[str, Any]

_USER = "user"


class Users:
    """Users on top of a Store. `clock` gives seconds that never go back."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._next_token = 0.0
        self._changes = asyncio.Lock()
        self._slow_hashes = asyncio.Lock()

    # ------------------------------------------------------------------------------------------------ logins

    async def authenticate(self, username: str, token: str) -> tuple[Identity, list[str]]:
        """Who logs in, and the permissions as they were given. InvokeError, after a pause, when the token is wrong."""
        entry = await self._store.get_entry(_USER, username)
        if not await self._matches(entry, token):
            await self._sleep(FAILED_LOGIN_PAUSE)
            raise InvokeError(f"Unable to authenticate as {username}")
        return _identity(username, entry), sorted(entry["permissions"])

    async def become(self, username: str) -> Identity:
        """Who acts as another user."""
        entry = await self._store.get_entry(_USER, username)
        if entry is None:
            raise InvokeError(f"User {username} doesn't exist")
        return _identity(username, entry)

    async def set_administrator(self, username: str, password: str) -> None:
        """Make or keep the user that the server's settings name, with all permissions and this password."""
        async with self._changes:
            entry = await self._store.get_entry(_USER, username)
            if entry is not None and entry["permissions"] == [ALL] and await self._matches(entry, password):
                return
            salt = secrets.token_bytes(16)
            digest = await asyncio.to_thread(_scrypt, password, salt)
            await self._store.set_entry(_USER, username, _entry([ALL], "scrypt", salt, digest))

    # ------------------------------------------------------------------------------------------------- users

    async def new(self, username: str, granted: frozenset[str]) -> tuple[list[str], str]:
        """Make a user: the expanded permissions and the token."""
        async with self._changes:
            if await self._store.get_entry(_USER, username) is not None:
                raise InvokeError(f"Cannot create new user '{username}'")
            return sorted(granted), await self._give_token(username, granted)

    async def refresh_token(self, username: str) -> str:
        """A new token; the old one, or the password, stops working."""
        async with self._changes:
            entry = await self._entry(username)
            return await self._give_token(username, entry["permissions"])

    async def set_permissions(self, username: str, granted: frozenset[str]) -> list[str]:
        """Change what a user may do, from the next login on."""
        async with self._changes:
            entry = await self._entry(username)
            await self._store.set_entry(_USER, username, entry | {"permissions": sorted(granted)})
        return sorted(granted)

    async def get(self, username: str) -> list[str] | None:
        """The expanded permissions of a user; None when there is none of this name."""
        entry = await self._store.get_entry(_USER, username)
        return None if entry is None else sorted(_identity(username, entry).permissions)

    async def all(self) -> dict[str, list[str]]:
        """The expanded permissions of all users, by name, in order."""
        entries = await self._store.list_entries(_USER)
        return {name: sorted(_identity(name, entry).permissions) for name, entry in sorted(entries.items())}

    async def delete(self, username: str) -> None:
        """Remove a user."""
        async with self._changes:
            await self._entry(username)
            await self._store.set_entry(_USER, username, None)

    async def _entry(self, username: str) -> Entry:
        entry: Entry | None = await self._store.get_entry(_USER, username)
        if entry is None:
            raise InvokeError(f"No user named '{username}' exists")
        return entry

    async def _matches(self, entry: Entry | None, token: str) -> bool:
        """Whether the token belongs to the entry; takes as long for no entry as for a user's.

        One password at a time: a flood of logins shall not take the processors from the builds.
        """
        if entry is None:
            hmac.compare_digest(_blake2b(token, bytes(16)), bytes(32))
            return False
        salt = bytes.fromhex(entry["salt"])
        if entry["scheme"] == "scrypt":
            async with self._slow_hashes:
                digest = await asyncio.to_thread(_scrypt, token, salt)
        else:
            digest = _blake2b(token, salt)
        return hmac.compare_digest(digest, bytes.fromhex(entry["hash"]))

    async def _give_token(self, username: str, granted: Iterable[str]) -> str:
        """A new token for a user; waits until the rate of new tokens allows it."""
        now = self._clock()
        turn = max(now, self._next_token)
        self._next_token = turn + 1 / TOKENS_A_SECOND
        if turn > now:
            await self._sleep(turn - now)
        token, salt = secrets.token_hex(TOKEN_BYTES), secrets.token_bytes(16)
        await self._store.set_entry(_USER, username, _entry(granted, "blake2b", salt, _blake2b(token, salt)))
        return token


def _identity(username: str, entry: Entry) -> Identity:
    return Identity(username, permissions.expand(entry["permissions"]))


def _entry(granted: Iterable[str], scheme: str, salt: bytes, digest: bytes) -> Entry:
    return {"permissions": sorted(granted), "scheme": scheme, "salt": salt.hex(), "hash": digest.hex()}


def _blake2b(token: str, salt: bytes) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32, salt=salt).digest()


def _scrypt(password: str, salt: bytes) -> bytes:
    """About 50 ms and 16 MiB, as RFC 7914 proposes for interactive logins."""
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=1 << 14, r=8, p=1, dklen=32)
