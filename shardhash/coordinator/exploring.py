"""Exploring: questions of people about the rows of a server, and why a task was not reused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from shardhash.base.timestamps import from_iso, to_iso
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.queues import FairQueue
from shardhash.errors import InvokeError
from shardhash.stores.interface import DivergingTasks, Doomed, DoomedTasks, FoundRows, Store, Taken
from shardhash.wire import messages as m
from shardhash.wire.long_text import long_list
from shardhash.wire.search import MOST_FOUND, TIMES, Search

MOST_WAITING = 20
"""Searches of one host that may wait."""
MOST_GUESSING = 200
"""Requests for guesses of one host that may wait."""
SHOWN = 20
"""Tasks that share something, of a story."""
NEAREST = 5
"""Other tasks of the same recipe and name, of a story."""
MOST_OUTHASHES = 10
"""Outhashes of a taskhash whose other tasks a story names; the newest."""


def as_json(answer: FoundRows | DivergingTasks | Doomed | DoomedTasks | Taken) -> dict[str, Any]:
    """The object of an answer, without a copy of its rows: that takes 15 us each."""
    return {field.name: getattr(answer, field.name) for field in fields(answer)}


class Exploring:
    """Answers searches, one at a time, in turn for each host that asks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = FairQueue(MOST_WAITING, "too many searches of this host wait; try again later")
        self._guesses = FairQueue(MOST_GUESSING, "too many requests for guesses of this host wait; go on without")

    async def find(self, caller: Caller, request: m.Find) -> Any:
        """The newest rows that match."""
        async with self._turns.turn(caller.group):
            return as_json(await self._store.explorer.find(times_of(request.where), request.limit, whole=request.whole))

    async def get_row(self, _caller: Caller, request: m.GetRow) -> Any:
        """One row with its siginfo."""
        return await self._store.explorer.read_row(request.method, request.taskhash, request.outhash)

    async def diverging(self, caller: Caller, request: m.Diverging) -> Any:
        """Taskhashes with more than one outhash."""
        async with self._turns.turn(caller.group):
            found = await self._store.explorer.diverging(times_of(request.where), request.limit)
        return as_json(found) | {"tasks": long_list(found.tasks)}

    async def saved(self, caller: Caller, request: m.Saved) -> Any:
        """Tasks that reused another's output, by recipe and week."""
        since = times_of({"since": request.since})["since"]
        async with self._turns.turn(caller.group):
            counts = await self._store.explorer.saved(since)
        return {"saved": [{"PN": recipe, "week": to_iso(week)[:10], "count": count} for recipe, week, count in counts]}

    async def guess(self, caller: Caller, request: m.Guess) -> Any:
        """What tasks were mapped to when they were last reported."""
        async with self._guesses.turn(caller.group):
            found = await self._store.explorer.guess(request.method, request.tasks)
        return {"guesses": long_list(found.guesses), "complete": found.complete}

    async def why(self, caller: Caller, request: m.Why) -> Any:
        """The story of a taskhash, and what keeps it from being reused."""
        async with self._turns.turn(caller.group):
            return await self._why(request)

    async def _why(self, request: m.Why) -> dict[str, Any]:
        """What is known of a taskhash of some method; of several the one with the newest row."""
        where = {"taskhash": request.taskhash} | ({"method": request.method} if request.method else {})
        own = await self._store.explorer.find(where, MOST_FOUND)
        first = own.rows[0] if own.rows else {}
        method: str = first.get("method", request.method or "")
        unihash: str | None = first.get("unihash")
        rows = [row for row in own.rows if row["outhash"] is not None and row["method"] == method]
        sharers = await self._others({"method": method, "unihash": unihash}, request.taskhash) if unihash else None
        outhashes = [
            {"outhash": row["outhash"], "others": as_json(others)}
            for row in rows[:MOST_OUTHASHES]
            for others in [await self._others({"method": method, "outhash": row["outhash"]}, request.taskhash)]
        ]
        recipe, task = request.recipe or first.get("PN"), request.task or first.get("task")
        near = []
        if recipe and task:
            named = {"PN": recipe, "task": task} | ({"method": method} if method else {})
            near = (await self._others(named, request.taskhash, NEAREST)).rows
        story = {
            "taskhash": request.taskhash,
            "method": method,
            "unihash": unihash,
            "asked": first.get("asked"),
            "rows": rows,
            "sharers": as_json(sharers) if sharers is not None else {"count": 0, "rows": [], "complete": True},
            "outhashes": outhashes,
            "near": near,
        }
        return {"findings": await self._findings(story, first.get("gc_mark"), first.get("asked")), **story}

    async def _others(self, where: Mapping[str, str], taskhash: str, limit: int = SHOWN) -> FoundRows:
        """The newest rows that match, of other taskhashes."""
        found = await self._store.explorer.find(where, limit + MOST_OUTHASHES)
        rows = [row for row in found.rows if row["taskhash"] != taskhash]
        return FoundRows(found.count - len(found.rows) + len(rows), rows[:limit], found.complete)

    async def _findings(self, story: Mapping[str, Any], mark: str | None, asked: str | None) -> list[str]:
        """The story in sentences, what matters most first."""
        rows, unihash, near = story["rows"], story["unihash"], story["near"]
        said = []
        if unihash is None and not rows:
            said.append("It is not known here: no task with this hash was reported, or all that was is removed.")
        elif unihash is None:
            said.append(
                "It was reported, and its mapping is gone: a removal, a collection or a quarantine took it. Lookups"
                " answer nothing until a build makes it again."
            )
        elif unihash == story["taskhash"]:
            said.append("It is known under its own hash: no older task with the same output gave it another.")
        else:
            said.append(f"It is known, and reused as {unihash}.")
        if not rows and unihash is not None:
            said.append("No report of it is here: the mapping came from an upstream or by report-equiv.")
        if story["sharers"]["count"]:
            said.append(f"{story['sharers']['count']} other rows have the same unihash.")
        if len(rows) > 1:
            said.append(f"It had {len(rows)} different outhashes: the task is not reproducible. Compare their siginfo.")
        if unihash is not None and self._store.explorer.notes_asking:
            said.append(_last_asked(rows[0] if rows else None, asked))
        said += self._missed(story)
        status = await self._store.gc_status()
        if status.mark and unihash is not None and mark != status.mark:
            said.append(f"It has no mark {status.mark!r}: the collection that runs will sweep it, unless it is marked.")
        if near and not any(row["taskhash"] == story["taskhash"] for row in near):
            said.append(f"The newest other {near[0]['PN']} {near[0]['task']} is {near[0]['taskhash']}.")
        return said

    @staticmethod
    def _missed(story: Mapping[str, Any]) -> list[str]:
        """Outhashes that other tasks have under another unihash."""
        said = []
        for item in story["outhashes"]:
            unihashes = {row["unihash"] for row in item["others"]["rows"]} - {None, story["unihash"]}
            if unihashes:
                said.append(
                    f"Other tasks with its outhash {item['outhash']} have another unihash, {min(unihashes)}: a mapping"
                    " is written once, and this one's came first from elsewhere."
                )
        return said


def _last_asked(newest: Mapping[str, Any] | None, asked: str | None) -> str:
    """When a mapping was last asked for, in a sentence; it is noted by the day, in UTC."""
    if asked is not None:
        return f"It was last asked for on {asked}."
    reported = f" It was reported on {newest['created'][:10]}." if newest is not None else ""
    return f"Nobody asked for it since it came here, as far as is noted.{reported}"


def times_of(search: Search) -> dict[str, Any]:
    """A search with its times in microseconds. Raises InvokeError."""
    found: dict[str, Any] = dict(search)
    for name in TIMES:
        if name in search:
            try:
                found[name] = from_iso(search[name])
            except ValueError:
                raise InvokeError(f"'{name}' must be a time such as 2026-11-28 or 2026-11-28T12:00") from None
    return found
