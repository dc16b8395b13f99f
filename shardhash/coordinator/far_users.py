"""Users of a further coordinator: changes are made at home, by the first one, so that no two of them meet half way.

It tells all coordinators of each (`Users.follow`) before it answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from shardhash.coordinator.callers import Caller
from shardhash.coordinator.users import Users
from shardhash.stores.interface import Store


class FarUsers(Users):
    """See the module. `home` asks the first coordinator's `Users`: the name of a method, and its arguments."""

    def __init__(self, store: Store, home: Callable[..., Awaitable[Any]]) -> None:
        super().__init__(store)
        self._home = home

    async def new(self, username: str, granted: frozenset[str], lifetime: int = 0) -> tuple[list[str], str]:
        """See Users."""
        made: tuple[list[str], str] = await self._home("new", username, granted, lifetime)
        return made

    async def take(self, username: str, token: str, granted: Iterable[str]) -> str:
        """See Users."""
        answer: str = await self._home("take", username, token, list(granted))
        return answer

    async def refresh_token(self, username: str, caller: Caller | None = None, lifetime: int | None = None) -> str:
        """See Users. The caller's connection stays, though the news comes from elsewhere."""
        self._kept[username] = caller
        try:
            token: str = await self._home("refresh_token", username, None, lifetime)
            self._logins[username] = entry = await self._entry(username)
        finally:
            self._kept.pop(username, None)
        self._life.watch(username, entry)
        return token

    async def set_permissions(self, username: str, granted: frozenset[str]) -> list[str]:
        """See Users."""
        expanded: list[str] = await self._home("set_permissions", username, granted)
        return expanded

    async def delete(self, username: str) -> None:
        """See Users."""
        await self._home("delete", username)
