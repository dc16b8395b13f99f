"""The site: what each path answers to a plain HTTP request.

============  =============================================================================  ========================
path          answers                                                                        needs
============  =============================================================================  ========================
/livez        200 as long as the server takes requests; asks nobody                          nothing
/readyz       200 when every shard answers and the disk has room, else 503; ``?verbose``     nothing; ``?verbose``
              names each check                                                               @read
/healthz      the same
/metrics      Prometheus text, or OpenMetrics where the Accept header asks for it            @read; mappings and rows
                                                                                             @db-admin
============  =============================================================================  ========================
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.handlers import Services
from shardhash.coordinator.origins import Browsers
from shardhash.errors import InvokeError
from shardhash.http.checks import checks, read_disk
from shardhash.http.viewers import REALM, identify, refusal_of_host
from shardhash.wire.messages import DB_ADMIN, READ

log = logging.getLogger(__name__)

Page: TypeAlias = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]


class Site:
    """The pages of a server. `data` is its data directory, None when everything is in memory."""

    def __init__(self, services: Services, browsers: Browsers, data: Path | None) -> None:
        self._services = services
        self._browsers = browsers
        self._data = data
        self._pages: dict[str, Page] = {
            "/readyz": self._readyz,
            "/healthz": self._readyz,
            "/metrics": self._metrics,
        }

    async def answer(self, request: web.Request, bind: Bind, own: Collection[str]) -> web.StreamResponse | None:
        """The answer to a request that came in by `bind`; None for a path that is nothing here. `own`: see origins."""
        if request.path == "/livez":
            return web.Response(text="ok\n")
        if (page := self._pages.get(request.path)) is None:
            return None
        if not self._is_probe(request) and (refusal := refusal_of_host(request, self._browsers, own)):
            log.warning("%s: refused: %s", request.remote or "unknown", refusal)
            return web.Response(status=403, text=refusal + "\n")
        try:
            return await page(request, await identify(request, bind, self._services))
        except InvokeError as error:
            return web.Response(status=401, text=f"{error}\n", headers=REALM)

    @staticmethod
    def _is_probe(request: web.Request) -> bool:
        """Whether it asks for ready or not and nothing else: balancers do, by any name."""
        return request.path in ("/readyz", "/healthz") and "verbose" not in request.query

    async def _readyz(self, request: web.Request, caller: Caller) -> web.Response:
        found = list(checks(await self._services.store.health(), await read_disk(self._data)))
        ready = all(check.well for check in found if check.needed)
        text = "ready\n" if ready else "not ready\n"
        if "verbose" in request.query:
            _require(caller, READ)
            text = "".join(f"{check}\n" for check in found) + text
        return web.Response(status=200 if ready else 503, text=text)

    async def _metrics(self, request: web.Request, caller: Caller) -> web.Response:
        from shardhash.http.metrics import Seen, encode_metrics  # takes a while, which a start need not

        _require(caller, READ)
        health, disk = await self._services.store.health(), await read_disk(self._data)
        sizes = caller.identity.may(frozenset((DB_ADMIN,)))
        body, kind = encode_metrics(
            Seen(self._services.counters, health, disk, sizes), request.headers.get("Accept", "")
        )
        return web.Response(body=body, headers={"Content-Type": kind})


def _require(caller: Caller, permission: str) -> None:
    if not caller.identity.may(frozenset((permission,))):
        raise InvokeError(
            f"{caller.identity.name} needs {permission} for this: log in by HTTP basic authentication with a user and"
            f" its token, or let the address give it to everyone (--http or --bind ADDRESS,anon={permission})"
        )
