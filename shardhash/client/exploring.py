"""Questions of the explorer about rows. Servers other than shardhash close the connection on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any


class Exploring(ABC):
    """The part of a client that explores. Rows are objects of columns; times ISO 8601, UTC."""

    async def find(self, where: Mapping[str, str], limit: int = 100, whole: bool = False) -> dict[str, Any]:
        """The newest rows that match (wire/search.py): ``{count, rows, complete}``, `limit` rows at most.

        `whole`: with their outhash_siginfo, 100 at most.
        """
        return await self._object("find", {"where": dict(where), "limit": limit, "whole": whole})

    async def get_row(self, method: str, taskhash: str, outhash: str) -> dict[str, Any] | None:
        """One row with its outhash_siginfo, mapped or not; None without it."""
        arguments = {"method": method, "taskhash": taskhash, "outhash": outhash}
        return await self._object_or_none("get-row", arguments)

    async def diverging(self, where: Mapping[str, str], limit: int = 50) -> dict[str, Any]:
        """Taskhashes with more than one outhash, newest first: ``{count, tasks, recipes, complete}``."""
        return await self._object("diverging", {"where": dict(where), "limit": limit})

    async def saved(self, since: str) -> list[dict[str, Any]]:
        """Tasks since then that reused another's output, ``{PN, week, count}``, most first."""
        answer = await self._object("saved", {"since": since})
        return list(answer["saved"])

    async def guess(self, method: str, tasks: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
        """For each task (PN, task), 1000 at most, the (taskhash, unihash) of its last reports, newest first."""
        answer = await self._object("guess", {"method": method, "tasks": list(tasks)})
        return [[(taskhash, unihash or taskhash) for taskhash, unihash in found] for found in answer["guesses"]]

    async def why(
        self, taskhash: str, method: str | None = None, recipe: str | None = None, task: str | None = None
    ) -> dict[str, Any]:
        """The story of a taskhash: ``findings`` in sentences, its rows, who shares its unihash and outhashes."""
        return await self._object("why", {"taskhash": taskhash, "method": method, "PN": recipe, "task": task})

    async def quarantine(self, where: Mapping[str, str], reason: str = "", preview: bool = False) -> dict[str, Any]:
        """Set aside what matches, so that builds make it again: ``{rows, mappings, outhashes, shared}``.

        `shared`: outhashes that other tasks have, too, which go on giving equivalences. Unless it is a `preview` also
        its ``name``, by which `release` takes it back.
        """
        return await self._object("quarantine", {"where": dict(where), "reason": reason, "preview": preview})

    async def quarantines(self) -> list[dict[str, Any]]:
        """All that is in quarantine, newest first."""
        return list((await self._object("quarantines", {}))["quarantines"])

    async def release(self, name: str) -> dict[str, Any]:
        """End a quarantine: its mappings are back, but where a build made another; ``restored`` says how many."""
        return await self._object("release", {"name": name})

    async def discard(self, rows: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
        """Remove rows (method, taskhash, outhash), 1000 at most, and the mappings of their tasks; ``{"count": n}``."""
        named = [dict(zip(("method", "taskhash", "outhash"), row, strict=True)) for row in rows]
        return await self._object("discard", {"rows": named})

    async def collect(
        self,
        step: str,
        collection: str = "",
        unihashes: list[str] | None = None,
        since: str | None = None,
        after: int | None = None,
        mappings: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        """A step of a collection (wire/collecting.py)."""
        fields = {
            "collection": collection or None, "unihashes": unihashes, "since": since, "after": after,
            "mappings": mappings,
        }  # fmt: skip
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._object("collect", {"step": step, **given})

    async def forwarding(self, limit: int = 10) -> dict[str, Any]:
        """How the reports stand that the server sends on to its upstream; PROTOCOL says with which fields."""
        return await self._object("forwarding", {"limit": limit})

    async def forward_refused(self) -> int:
        """Have the reports sent on again that its upstream refused; how many."""
        return int((await self._object("forward-refused", {}))["count"])

    async def drop_refused(self) -> int:
        """Have it forget the reports that its upstream refused; how many."""
        return int((await self._object("drop-refused", {}))["count"])

    @abstractmethod
    async def _object(self, command: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer to a command, an object."""

    @abstractmethod
    async def _object_or_none(self, command: str, arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The answer to a command, an object or null."""
