"""Status: the state of a server, as JSON for the page. What the viewer may not ask through the protocol is null."""

from __future__ import annotations

from time import time
from typing import Any

from shardhash import __version__
from shardhash.base.figures import read_process
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.counters import Build, Counters
from shardhash.coordinator.services import Services
from shardhash.http.checks import Disk, checks
from shardhash.http.routes import Json, Visit
from shardhash.stores.interface import Health, ShardHealth
from shardhash.wire.messages import DB_ADMIN, USER_ADMIN

_STARTED = read_process().started or time()
MOST_SHOWN = 200
"""Connections that are listed; of more the newest."""


def describe_status(services: Services, health: Health, disk: Disk | None, visit: Visit) -> Json:
    """Everything that the page shows of the present."""
    found = list(checks(health, disk, services.room))
    administrator = visit.may(DB_ADMIN)
    figures = [shard.figures for shard in health.shards if shard.figures is not None]
    return {
        "version": __version__,
        "started": _STARTED,
        "now": time(),
        "ready": all(check.well for check in found if check.needed),
        "checks": [
            {"name": check.name, "well": check.well, "needed": check.needed, "text": check.text} for check in found
        ],
        "shards": [_shard(shard, sizes=administrator) for shard in health.shards],
        "mappings": sum(of.mappings for of in figures) if administrator else None,
        "rows": sum(of.rows for of in figures) if administrator else None,
        "disk": None if disk is None or disk.why else {"free": disk.free, "total": disk.total},
        "totals": _totals(services.whole.counters),
        "transports": {kind: count for kind, count in sorted(services.whole.counters.connections.items()) if count},
        "connected": _connected(services, visit) if administrator else None,
        "builds": [_build(build, hosts=administrator) for build in reversed(services.whole.counters.builds)],
    }


def describe_viewer(caller: Caller) -> Json:
    """The viewer of the page, and their permissions."""
    return {
        "user": caller.identity.username,
        "permissions": sorted(caller.identity.permissions),
        "read_only": caller.read_only,
    }


def _shard(shard: ShardHealth, *, sizes: bool) -> Json:
    described: dict[str, Any] = {"shard": shard.shard, "restarts": shard.restarts, "why": shard.why}
    if (figures := shard.figures) is not None:
        described |= {
            "memory": figures.process.memory,
            "log_bytes": figures.log_bytes,
            "snapshot_time": figures.snapshot_time or None,
            "snapshot_seconds": figures.snapshot_seconds or None,
        }
        if sizes:
            described |= {"mappings": figures.mappings, "rows": figures.rows}
    return described


def _totals(counters: Counters) -> Json:
    return {
        "lookups": counters.hits + counters.misses,
        "hits": counters.hits,
        "reports": counters.reports_stored,
        "reused": counters.equivalences,
        "dropped": counters.reports_dropped.total(),
    }


def _connected(services: Services, visit: Visit) -> list[Json]:
    newest = sorted([*services.connected, *services.whole.connected], key=lambda caller: caller.since, reverse=True)[
        :MOST_SHOWN
    ]
    return [
        {
            "peer": caller.peer,
            "transport": caller.transport,
            "since": caller.since,
            "user": caller.identity.username if visit.may(USER_ADMIN) else None,
        }
        for caller in newest
    ]


def _build(build: Build, *, hosts: bool) -> Json:
    return {
        "host": build.host if hosts else None,
        "began": build.began,
        "last": build.last,
        "hits": build.hits,
        "misses": build.misses,
        "reports": build.reports,
        "reused": build.equivalences,
    }
