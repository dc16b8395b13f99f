"""Users: who there is, what they may do, and the tokens that prove it. Kept as entries of kind "user" in the Store.

An entry is ``{"id": hex, "permissions": [...], "scheme": S, "salt": hex, "hash": hex}``, and when its token ends
(token_life.py). The id tells a user from a later one of the same name. A token is 64 random characters, so a plain
salted hash keeps it, in the stock server's form ("salted-sha256", base/tokens.py);
an administrator's password is made by a person, so it takes scrypt, beside the event loop. None can be read back.
Comparison takes the same time wherever they differ, and a failed login waits a second, a missing user like a wrong
token. New tokens are limited over all clients, since each costs a write.

The config entry "administrator" keeps, in the same form, the name and password that the settings gave last. They are
applied once: a user that was deleted, or got a new token since, does not come back with an old password at a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from shardhash.base.entry_kinds import ADMINISTRATOR, CONFIG, USER
from shardhash.base.letting_go import let_go
from shardhash.base.tasks import Sleep
from shardhash.base.tokens import ALGORITHM, SALTED, from_stock, salted_hash
from shardhash.base.turns import in_order
from shardhash.coordinator import permissions
from shardhash.coordinator.callers import Caller, LoggedIn
from shardhash.coordinator.complaints import Complaints
from shardhash.coordinator.guesses import Guesses
from shardhash.coordinator.limits import ServerLimits
from shardhash.coordinator.permissions import ALL, Identity
from shardhash.coordinator.queues import FairQueue
from shardhash.coordinator.token_life import AT_ONCE, TokenLife, expiry_of
from shardhash.errors import InvokeError
from shardhash.stores.interface import Store
from shardhash.wire.imports import CONFLICT, UNUSABLE
from shardhash.wire.rows import KNOWN, NEW

log = logging.getLogger(__name__)

TOKEN_BYTES = 32
"""Random bytes of a token, which is shown as hex: 64 characters."""
FAILED_LOGIN_PAUSE = 1.0
"""Seconds before a failed login is answered."""
TOKEN_SCHEME = SALTED + ALGORITHM
TOKENS_A_SECOND = 10
MOST_WAITING = 20
"""Logins by password of one host, and new tokens for one user, that may wait at one time."""

UserEntry: TypeAlias = dict[str, Any]

_PASSWORD = "scrypt"
"""The scheme of passwords, which people make and others might guess."""
_APPLIED = (CONFIG, ADMINISTRATOR)


class Users:
    """Users on top of a Store. `clock` gives seconds that never go back, `now` those since 1970 UTC."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.guesses = Guesses(ServerLimits(), Complaints(), clock)
        self.logged_in = LoggedIn()
        self._life = TokenLife(store, self.logged_in, now)
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._next_token = 0.0
        self._logins: dict[str, UserEntry] = {}
        """The entries of users by whose tokens connections came in, or who were acted as."""
        self._changes = asyncio.Lock()
        self._kept: dict[str, Caller | None] = {}
        """Connections that stay when it is told that their user got a new token: it was made for them."""
        self._heard = 0
        """Changes of users by other servers that were told here, and deletions."""
        self._patient = ThreadPoolExecutor(1, "passwords", _give_way)
        self._proofs: set[bytes] = set()
        """Passwords that were right, as keyed hashes: who has one does not wait behind those who guess."""
        self._proof_key = secrets.token_bytes(32)
        self._passwords = FairQueue(MOST_WAITING, "too many logins of this host wait; try again later")
        self._tokens = FairQueue(MOST_WAITING, "too many new tokens of this user wait; try again later")

    async def close(self) -> None:
        """End what still runs beside requests."""
        await self._life.close()

    # ------------------------------------------------------------------------------------------------ logins

    async def authenticate(self, username: str, token: str, caller: Caller | None = None) -> tuple[Identity, list[str]]:
        """Who logs in, and the permissions as they were given. InvokeError when the token is wrong, after a
        pause, and when it has expired.

        The caller's identity must be set before anything else is awaited.
        """
        entry = await self._store.get_entry(USER, username)
        group = "" if caller is None else caller.group
        refusal = self.guesses.refusal(username, group)
        guessable = entry is None or entry["scheme"] == _PASSWORD
        try:
            right = not (refusal and guessable) and await self._matches(entry, token, caller)
        except InvokeError:  # too many wait
            await self._pause(caller)
            raise
        if right:
            # Checking a password takes a while; the user may have been deleted or made anew meanwhile.
            current = await self._read(username)
            if current is not None and _same_login(entry, current):
                self._life.check(username, current)
                self._life.use(username, current)
                self._remember(username, current, caller)
                self.guesses.succeeded(username, group)
                return _identity(username, current), sorted(current["permissions"])
        if not refusal:  # what was not looked at told nothing
            self.guesses.failed(username, group)
        await self._pause(caller)
        raise InvokeError(refusal or f"Unable to authenticate as {username}")

    async def _pause(self, caller: Caller | None) -> None:
        pause = self._sleep(FAILED_LOGIN_PAUSE)
        await (pause if caller is None else caller.rest(pause))

    async def find(self, username: str) -> Identity | None:
        """A user; None when there is none of this name."""
        entry = await self._read(username)
        if entry is None:
            return None
        self._logins.setdefault(username, entry)
        return _identity(username, entry)

    async def _read(self, username: str) -> UserEntry | None:
        """A user's entry as no change that was told here came after, since the caller is not yet known to `follow`."""
        while True:
            heard = self._heard
            entry: UserEntry | None = await self._store.get_entry(USER, username)
            if heard == self._heard:
                return entry

    def _drop(self, username: str) -> None:
        """A user is deleted: end its connections, and remember nothing of it."""
        self.logged_in.revoke(username, f"{username} was deleted")
        self._logins.pop(username, None)
        self._life.drop(username)

    def _remember(self, username: str, entry: UserEntry, caller: Caller | None) -> None:
        """Remember by which entry connections of this user logged in; those by an earlier one are closed."""
        if not _same_login(self._logins.setdefault(username, entry), entry):
            self._logins[username] = entry
            self.logged_in.revoke(username, f"{username} got a new token", keep=caller)

    async def become(self, username: str) -> Identity:
        """Act as another user: the permissions to act with."""
        identity = await self.find(username)
        if identity is None:
            raise InvokeError(f"User {username} doesn't exist")
        return identity

    async def set_administrator(self, username: str, password: str) -> None:
        """Give the user that the settings name all permissions and this password, unless that was done before."""
        async with self._changes:
            applied = await self._store.get_entry(*_APPLIED)
            if applied is not None and applied["username"] == username and await self._matches(applied, password):
                await self._tell_of_administrator(username, applied)
                return
            before = await self._store.get_entry(USER, username)
            if before is not None and ALL not in before["permissions"]:
                log.warning(
                    "the user %s, who had %s, becomes an administrator with the configured password",
                    username,
                    " ".join(before["permissions"]) or "no permissions",
                )
            salt = secrets.token_bytes(16)
            digest = await self._scrypt(password, salt)
            entry = _entry([ALL], _PASSWORD, salt, digest)
            await self._store.set_entry(USER, username, entry)
            await self._store.set_entry(*_APPLIED, entry | {"username": username})

    async def _tell_of_administrator(self, username: str, applied: UserEntry) -> None:
        entry = await self._store.get_entry(USER, username)
        if entry is None:
            what = "was deleted and is not made again; configure another password to have it made"
        elif not _same_login(entry, applied):
            what = "got a token since, so the configured password is refused; use the token, or configure another one"
        else:
            return
        log.warning("the configured administrator %s %s", username, what)

    # --------------------------------------------------------------------------------------- other servers

    async def follow(self, kind: str, name: str | None) -> None:
        """Another server on the same store has changed an entry, or, without a name, may have changed any.

        What its users may do holds here too, as soon as the store tells.
        """
        if kind != USER:
            return
        self._heard += 1
        logged_in = self.logged_in.usernames()
        if name is None:  # of the others nothing need be remembered
            self._logins = {username: entry for username, entry in self._logins.items() if username in logged_in}
        for username in logged_in if name is None else (logged_in | self._logins.keys()) & {name}:
            async with self._changes:
                entry = await self._store.get_entry(USER, username)
                if entry is None:
                    self._drop(username)
                elif not _same_login(self._logins.get(username), entry):
                    self.logged_in.revoke(username, f"{username} got a new token", keep=self._kept.get(username))
                else:
                    self.logged_in.set_identity(_identity(username, entry))

    async def check_again(self, caller: Caller) -> None:
        """Read again what the users of a caller may do: other servers may have changed it unheard (Store.lapsed)."""
        for username in {caller.login, caller.identity.username} - {None}:
            await self.follow(USER, username)

    # ------------------------------------------------------------------------------------------------- users

    async def new(self, username: str, granted: frozenset[str], lifetime: int = 0) -> tuple[list[str], str]:
        """Make a user: the expanded permissions and the token, which works for `lifetime` seconds; 0: without end."""
        async with self._tokens.turn(username):
            await self._check_is_new(username)  # a refusal costs no token
            await self._wait_for_token()
            async with self._changes:
                await self._check_is_new(username)
                return sorted(granted), await self._give_token(username, granted, secrets.token_hex(8), lifetime)

    async def take(self, username: str, token: str, granted: Iterable[str]) -> str:
        """Make a user of another server, whose kept token goes on working; see wire/imports.py for the answer.

        Permissions that are not known here are dropped.
        """
        kept = from_stock(token)
        if kept is None:
            return UNUSABLE
        entry = {"permissions": sorted((frozenset(granted) & permissions.KNOWN) - {permissions.NONE}), **kept}
        async with self._changes:
            here: UserEntry | None = await self._store.get_entry(USER, username)
            if here is None:
                await self._store.set_entry(USER, username, {"id": secrets.token_hex(8), **entry})
                return NEW
        return KNOWN if all(here.get(name) == value for name, value in entry.items()) else CONFLICT

    async def refresh_token(self, username: str, caller: Caller | None = None, lifetime: int | None = None) -> str:
        """A new token; the old one, or the password, stops working. Other connections of the user are closed.

        It works as long as its predecessor did, or for `lifetime` seconds; 0: without an end.
        """
        async with self._tokens.turn(username):
            await self._entry(username)
            await self._wait_for_token()
            async with self._changes:
                entry = await self._entry(username)
                lasts = entry.get("lifetime", 0) if lifetime is None else lifetime
                token = await self._give_token(username, entry["permissions"], entry["id"], lasts)
                self._logins[username] = entry = await self._entry(username)
                self._life.watch(username, entry)
                self.logged_in.revoke(username, f"{username} got a new token", keep=caller)
            await self._store.settled()
            return token

    async def set_permissions(self, username: str, granted: frozenset[str]) -> list[str]:
        """Change what a user may do, on open connections, too."""
        async with self._changes:
            entry = await self._entry(username) | {"permissions": sorted(granted)}
            await self._store.set_entry(USER, username, entry)
            self.logged_in.set_identity(_identity(username, entry))
        await self._store.settled()  # without the lock, which a change of another server waits for here
        return sorted(granted)

    async def get(self, username: str) -> list[str] | None:
        """The expanded permissions of a user; None when there is none of this name."""
        entry = await self._store.get_entry(USER, username)
        return None if entry is None else sorted(_identity(username, entry).permissions)

    async def all(self) -> list[dict[str, Any]]:
        """``{username, permissions}`` of all users, in order; the permissions expanded."""
        return await _in_order(await self._store.list_entries(USER), {})

    async def expiry(self, username: str) -> str | None:
        """When the token of a user expires, ISO 8601, UTC; None for never."""
        return expiry_of(await self._entry(username))

    async def described(self) -> list[dict[str, Any]]:
        """``{username, permissions, expires, used}`` of all users, in order; times ISO 8601, UTC, None for never."""
        entries = await self._store.list_entries(USER)
        return await _in_order(entries, await self._life.describe(entries))

    async def delete(self, username: str) -> None:
        """Remove a user. Its connections are closed."""
        async with self._changes:
            await self._entry(username)
            await self._store.set_entry(USER, username, None)
            self._heard += 1
            self._drop(username)
            await self._life.forget(username)
        await self._store.settled()

    async def _entry(self, username: str) -> UserEntry:
        entry: UserEntry | None = await self._store.get_entry(USER, username)
        if entry is None:
            raise InvokeError(f"No user named '{username}' exists")
        return entry

    async def _check_is_new(self, username: str) -> None:
        if await self._store.get_entry(USER, username) is not None:
            raise InvokeError(f"Cannot create new user '{username}'")

    async def _matches(self, entry: UserEntry | None, token: str, caller: Caller | None = None) -> bool:
        """Whether the token belongs to the entry; takes as long for no entry as for a user's.

        One password at a time: a flood of logins shall not take the processors from the builds. Each host has one in
        the queue, and whoever left by its turn is passed over, so that strangers cannot fill the queue.
        """
        if entry is None:
            hmac.compare_digest(salted_hash(TOKEN_SCHEME, bytes(32), token), bytes(32))
            return False
        salt = bytes.fromhex(entry["salt"])
        proof = hashlib.blake2b(f"{entry['hash']} {token}".encode(errors="surrogatepass"), key=self._proof_key).digest()
        if proof in self._proofs:
            return True
        if entry["scheme"] == _PASSWORD:
            async with self._passwords.turn("" if caller is None else caller.group):
                if caller is not None and caller.gone():
                    return False
                digest = await self._scrypt(token, salt)
            if hmac.compare_digest(digest, bytes.fromhex(entry["hash"])):
                self._proofs.add(proof)  # one for each password that is set
        else:
            digest = salted_hash(entry["scheme"], salt, token)
        return hmac.compare_digest(digest, bytes.fromhex(entry["hash"]))

    async def _scrypt(self, password: str, salt: bytes) -> bytes:
        """Beside the event loop, and behind everything else that wants a processor."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._patient, _scrypt, password, salt)

    async def _wait_for_token(self) -> None:
        """Wait until the rate of new tokens allows one more. Nothing else waits meanwhile."""
        now = self._clock()
        turn = max(now, self._next_token)
        self._next_token = turn + 1 / TOKENS_A_SECOND
        if turn > now:
            await self._sleep(turn - now)

    async def _give_token(self, username: str, granted: Iterable[str], id_: str, lifetime: int) -> str:
        token, salt = secrets.token_hex(TOKEN_BYTES), secrets.token_hex(16).encode()
        digest = salted_hash(TOKEN_SCHEME, salt, token)
        entry = _entry(granted, TOKEN_SCHEME, salt, digest, id_) | self._life.fields(lifetime)
        await self._store.set_entry(USER, username, entry)
        return token


async def _in_order(entries: dict[str, UserEntry], lives: dict[str, dict[str, str | None]]) -> list[dict[str, Any]]:
    """Users as clients see them, with what else is known of each; lets both dicts go."""
    users = [
        {"username": name, "permissions": sorted(_identity(name, entries[name]).permissions), **lives.get(name, {})}
        async for name in in_order(entries, AT_ONCE)
    ]
    let_go(entries, lives)
    return users


def _identity(username: str, entry: UserEntry) -> Identity:
    return Identity(username, permissions.expand(entry["permissions"]))


def _entry(granted: Iterable[str], scheme: str, salt: bytes, digest: bytes, id_: str = "") -> UserEntry:
    return {
        "id": id_ or secrets.token_hex(8),
        "permissions": sorted(granted),
        "scheme": scheme,
        "salt": salt.hex(),
        "hash": digest.hex(),
    }


def _same_login(entry: UserEntry | None, other: UserEntry) -> bool:
    return entry is not None and all(entry[name] == other[name] for name in ("id", "salt", "hash"))


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # of this thread alone


def _scrypt(password: str, salt: bytes) -> bytes:
    """About 50 ms and 16 MiB, as RFC 7914 proposes for interactive logins."""
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=1 << 14, r=8, p=1, dklen=32)
