"""Jobs for perf.holds: what an administrator, a collection or many clients at once have a server with a large table do.

Each is a coroutine of a server, which answers with a word about how it went. Those that prepare what another one
needs say so by `before`, which is not measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import numpy as np

from perf.filling import METHOD, taskhashes, unihashes
from perf.servers import Server
from shardhash.client import AsyncClient, create_async_client

ADMIN, PASSWORD = "admin", "correct horse battery staple"
MAPPINGS = 1_000_000
"""Of the table, each with a row and an index item of its own."""
CHOSEN = 20_000
"""Rows of a quarantine; as many as may be."""
OWN = "perf-jobs"
"""The method of what is reported here."""
USERS = 20_000
LOOKED_UP = 200_000
"""Mappings that are asked for, so that answers to them are at hand."""
SEEN = 30.0
"""Seconds until a snapshot that was asked for is there."""


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and its data directory."""

    server: Server
    data: Path

    @asynccontextmanager
    async def client(self, kind: str = "ws") -> AsyncIterator[AsyncClient]:
        """A client that may do everything."""
        async with await create_async_client(self.server.addresses[kind], ADMIN, PASSWORD, timeout=600) as client:
            yield client


Job: TypeAlias = Callable[[Place], Awaitable[str]]


def _reports(count: int, recipe: str, **more: str) -> list[dict[str, Any]]:
    return [
        {"method": OWN, "taskhash": (task := secrets.token_hex(32)), "outhash": secrets.token_hex(32)}
        | {"unihash": task, "PN": recipe, "PV": "1.0", "task": "do_compile"}
        | more
        for _ in range(count)
    ]


async def nothing(_place: Place) -> str:
    """Nothing to prepare."""
    return ""


async def report_chosen(place: Place) -> str:
    """Rows to be chosen."""
    async with place.client() as client:
        await client.remove({"method": OWN})
        return str(len(await client.report_unihash_batch(_reports(CHOSEN, "chosen"))))


async def preview(place: Place) -> str:
    """What a quarantine would choose."""
    async with place.client() as client:
        return str(await client.quarantine({"PN": "chosen", "method": OWN}, preview=True))


async def quarantine(place: Place) -> str:
    """Set aside, list and take back."""
    async with place.client() as client:
        entry = await client.quarantine({"PN": "chosen", "method": OWN}, "bad")
        await client.quarantines()
        return str((await client.release(entry["name"]))["restored"])


async def keep_quarantined(place: Place) -> str:
    """Some are there, whose parts a release has to look at."""
    await report_chosen(place)
    async with place.client() as client:
        for name in ("one", "two"):
            await client.report_unihash_batch(_reports(CHOSEN, name))
            await client.quarantine({"PN": name, "method": OWN}, "bad")
    return ""


async def snapshot(place: Place) -> str:
    """A snapshot, while builds ask and report."""
    found = _snapshots(place)
    os.kill(place.server.roles["coordinator"][0], signal.SIGUSR1)
    async with asyncio.timeout(20 * SEEN), place.client() as client:
        while _snapshots(place) <= found:
            await client.report_unihash_batch(_reports(100, "zlib"))
            await client.get_unihash(METHOD, secrets.token_hex(32))
            await asyncio.sleep(0.2)
    return "written"


def _snapshots(place: Place) -> int:
    names = [path.name for path in place.data.rglob("snapshot*") if path.suffix != ".tmp"]
    return max((int("".join(filter(str.isdigit, name)) or 0) for name in names), default=0)


async def look_up(place: Place) -> str:
    """Much is at hand, at the coordinator and at the worker."""
    async with place.client() as client:
        for start in range(0, LOOKED_UP, 1000):
            numbers = np.arange(start, start + 1000, dtype=np.uint64)
            await client.get_unihashes(METHOD, taskhashes(numbers).tobytes())
    return ""


async def remove_nothing(place: Place) -> str:
    """A removal, before and after which all that is at hand is forgotten."""
    async with place.client() as client:
        return str(await client.remove({"method": "no such method"}))


async def remove_recipe(place: Place) -> str:
    """Look through all for the rows of a recipe."""
    async with place.client() as client:
        return str(await client.remove({"PN": "recipe-17"}))


async def remove_chosen(place: Place) -> str:
    """Remove a whole method."""
    async with place.client() as client:
        return str(await client.remove({"method": OWN}))


async def find(place: Place) -> str:
    """Searches that look at all."""
    async with place.client() as client:
        found = await client.find({"PN": "recipe-2*"}, 1000)
        await client.find({"PN": "recipe-3"}, 100, whole=True)
        return str(found["count"])


async def explore(place: Place) -> str:
    """Tasks that diverge, builds that were saved, why and guesses."""
    async with place.client() as client:
        await client.diverging({"PN": "recipe*"}, 200)
        await client.saved("2026-01-01")
        await client.why(taskhashes(np.arange(1, dtype=np.uint64)).tobytes().hex(), METHOD)
        guesses = await client.guess(METHOD, [(f"recipe-{n}", "do_compile") for n in range(997)])
        return str(len(guesses))


async def report_diverging(place: Place) -> str:
    """Tasks with many outhashes."""
    rows = [row for row in _reports(2000, "diverging") for _ in range(10)]
    async with place.client() as client:
        await client.report_unihash_batch({**row, "outhash": secrets.token_hex(32)} for row in rows)
    return ""


async def diverging(place: Place) -> str:
    """The newest of them, with ten rows each."""
    async with place.client() as client:
        return str((await client.diverging({"PN": "diverging"}, 200))["count"])


async def collect(place: Place) -> str:
    """A collection that removes some."""
    async with place.client() as client:
        name = (await client.collect("begin"))["collection"]
        digests = unihashes(np.arange(10_000, dtype=np.uint64), reported=True)
        await client.collect("keep", name, [digest.tobytes().hex() for digest in digests])
        await client.collect("keep-used", name, since="2099-01-01")
        chosen = await client.collect("choose", name)
        page = await client.collect("show", name, after=0)
        named = [{key: task[key] for key in ("method", "taskhash", "unihash")} for task in page["tasks"]]
        taken = await client.collect("take", name, mappings=named)
        await client.collect("end", name)
        return f"{taken['mappings']} of {chosen['mappings']}"


async def mark(place: Place) -> str:
    """Marks of single hashes, of a recipe of mappings, and of all."""
    async with place.client("tcp") as client:
        digests = unihashes(np.arange(20_000, dtype=np.uint64), reported=True)
        await client.gc_mark_stream("perf", [f"unihash {digest.tobytes().hex()}" for digest in digests])
        await client.gc_mark("perf", {"method": METHOD})
        await client.gc_mark("perf", {"method": OWN})
        status = await client.gc_status()
        swept = await client.gc_sweep("perf")
        return f"{status['keep']} kept, {swept['count']} swept"


async def clean(place: Place) -> str:
    """Rows without a mapping."""
    async with place.client() as client:
        return str(await client.clean_unused(0))


async def make_users(place: Place) -> str:
    """Many users."""
    token = "sha256:" + secrets.token_hex(8) + ":" + secrets.token_hex(32)
    async with place.client("tcp") as client:
        for start in range(0, USERS, 2000):
            names = [f"builder-{number}" for number in range(start, start + 2000)]
            await client.import_batch(users=[{"username": n, "token": token, "permissions": ["@read"]} for n in names])
    return ""


async def list_users(place: Place) -> str:
    """All users, in both lists, and one that is deleted."""
    async with place.client("tcp") as client:
        await client.list_users()
        found = await client.get_all_users()
        await client.delete_user("builder-7")
        return str(len(found))


async def batches_at_once(place: Place) -> str:
    """Reports of 16 clients at one time."""

    async def one() -> None:
        async with place.client() as client:
            await client.report_unihash_batch(_reports(4000, "zlib"))

    await asyncio.gather(*[one() for _ in range(16)])
    return ""


async def equivalences_at_once(place: Place) -> str:
    """Mappings without rows of 16 clients at one time."""

    async def one() -> None:
        async with place.client("tcp") as client:
            await client.report_unihash_equiv_batch(
                {"method": OWN, "taskhash": (task := secrets.token_hex(32)), "unihash": task} for _ in range(4000)
            )

    await asyncio.gather(*[one() for _ in range(16)])
    return ""


async def imports_at_once(place: Place) -> str:
    """Mappings and rows that several imports bring at one time."""
    created = 1_700_000_000_000_000

    async def one() -> None:
        async with place.client() as client:
            for _ in range(3):
                rows = [row | {"created": created} for row in _reports(1000, "imported")]
                named = [{name: row[name] for name in ("method", "taskhash", "unihash")} for row in rows]
                await client.import_batch(mappings=named)
                await client.import_batch(rows=rows)

    await asyncio.gather(*[one() for _ in range(8)])
    return ""


async def one_output(place: Place) -> str:
    """Tasks that share one outhash, as those that leave nothing behind do."""
    async with place.client() as client:
        await client.report_unihash_batch(_reports(20_000, "empty", outhash="e" * 64))
        await client.find({"outhash": "e" * 64, "method": OWN}, 1000)
        return str(await client.remove({"outhash": "e" * 64}))


async def one_task(place: Place) -> str:
    """A task of many outhashes."""
    async with place.client() as client:
        task = secrets.token_hex(32)
        await client.report_unihash_batch(_reports(20_000, "odd", taskhash=task, unihash=task))
        await client.why(task, OWN)
        await client.diverging({"taskhash": task}, 10)
        return str(await client.remove({"taskhash": task}))


async def look_at(place: Place) -> str:
    """The page's state, and metrics."""

    address = place.server.addresses["ws"].replace("ws://", "http://")
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth(ADMIN, PASSWORD)) as session:
        sizes = []
        for path in ("/metrics", "/healthz", "/api/status", "/api/history"):
            async with session.get(address + path) as answer:
                sizes.append(f"{answer.status}: {len(await answer.read())}")
    return ", ".join(sizes)


async def hang_up(place: Place) -> str:
    """Settings are read again."""
    os.kill(place.server.roles["coordinator"][0], signal.SIGHUP)
    await asyncio.sleep(1)
    return ""


async def connect_often(place: Place) -> str:
    """Many connections, closed at one time."""
    clients = await asyncio.gather(*[create_async_client(place.server.addresses["tcp"]) for _ in range(500)])
    await asyncio.gather(*[client.ping() for client in clients])
    await asyncio.gather(*[client.close() for client in clients])
    return json.dumps(len(clients))


JOBS: dict[str, tuple[Job, Job]] = {
    "job-page": (nothing, look_at),
    "job-reload": (nothing, hang_up),
    "job-connections": (nothing, connect_often),
    "job-find": (nothing, find),
    "job-explore": (nothing, explore),
    "job-diverging": (report_diverging, diverging),
    "job-forget": (look_up, remove_nothing),
    "job-reports": (nothing, batches_at_once),
    "job-equivalences": (nothing, equivalences_at_once),
    "job-imports": (nothing, imports_at_once),
    "job-one-output": (nothing, one_output),
    "job-one-task": (nothing, one_task),
    "job-snapshot": (look_up, snapshot),
    "job-preview": (report_chosen, preview),
    "job-quarantine": (report_chosen, quarantine),
    "job-remove": (report_chosen, remove_chosen),
    "job-remove-recipe": (look_up, remove_recipe),
    "job-collect": (look_up, collect),
    "job-clean": (nothing, clean),
    "job-users": (make_users, list_users),
    "job-snapshot-users": (keep_quarantined, snapshot),
    "job-release": (nothing, quarantine),
    "job-mark": (nothing, mark),
}
"""By name: what is prepared, and what is measured. Later ones meet what earlier ones left."""
