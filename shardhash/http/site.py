"""The site: what each path answers to a plain HTTP request. `/api/openapi.json` describes it; `Site._routes` is it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from aiohttp import web

from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.handlers import Handlers
from shardhash.coordinator.origins import Browsers
from shardhash.coordinator.services import Services
from shardhash.errors import InvokeError, ServerFaultError
from shardhash.http.assets import HEADERS, answer_asset
from shardhash.http.checks import Disk, checks, read_disk
from shardhash.http.history import History, Sample
from shardhash.http.logins import COOKIE, Logins, give_cookie, take_cookie
from shardhash.http.openapi import describe
from shardhash.http.routes import Json, RightsError, Route, Visit, answer_json, json_response
from shardhash.http.status import describe_status, describe_viewer
from shardhash.http.viewers import REALM, anonymous, identify, refusal_of_host
from shardhash.stores.interface import Health
from shardhash.wire.commands import COMMANDS, READ_ONLY_COMMANDS, Steps, begin_request, describe_unknown
from shardhash.wire.messages import DB_ADMIN, READ, Request

log = logging.getLogger(__name__)

ASKED = frozenset(
    (
        *("find", "get-row", "diverging", "saved", "why"),
        *("quarantine", "quarantines", "release", "discard", "import-batch"),
        *("get-all-users", "list-users", "new-user", "set-user-perms", "refresh-token", "delete-user"),
    )
)
"""Commands of the protocol that may be asked over HTTP."""
WITHOUT_FIELDS = frozenset(("get-all-users", "list-users", "quarantines"))
"""Those of them that take no fields: whatever is given is ignored."""
MOST_STREAMS = 100
"""Event streams at one time."""
STATUS_EVERY = 3
"""Samples from one status of an event stream to the next."""
FRESH = 1.0
"""Seconds for which what the shards said is passed on to whoever asks."""


class Site:
    """The pages of a server. `data` is its data directory, None when everything is in memory."""

    def __init__(self, services: Services, browsers: Browsers, data: Path | None) -> None:
        self._services = services
        self._browsers = browsers
        self._data = data
        self._history = History(services.whole.counters)
        self._logins = Logins(services.users)
        self._handlers = Handlers(services)
        self._streams = 0
        self._looked: tuple[float, Health, Disk | None] | None = None
        self._looking = asyncio.Lock()
        self._background = BackgroundTasks()
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self._routes():
            self._by_path.setdefault(route.path, {})[route.method] = route

    def start(self) -> None:
        """Begin to keep a history."""
        self._background.start(self._history.run(), "the history of the page")

    async def close(self) -> None:
        """End the event streams."""
        await self._background.close()
        self._history.close()

    async def answer(self, request: web.Request, bind: Bind, own: Collection[str]) -> web.StreamResponse | None:
        """The answer to a request that came in by `bind`; None for a path that is nothing here. `own`: see origins."""
        routes = self._by_path.get(request.path)
        if routes is None and answer_asset(request.path) is None:
            return None
        try:
            response = await self._answer(request, bind, own, routes or {})
        except RightsError as error:
            response = json_response({"error": str(error)}, 403)
            if request.path == "/metrics" and error.anonymous:  # a scraper, or a person with a browser's own dialogue
                response = web.Response(status=401, text=f"{error}\n", headers=REALM)
        except InvokeError as error:
            response = json_response({"error": str(error)}, 400)
        except ServerFaultError as error:
            response = json_response({"error": str(error)}, 503)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _answer(
        self, request: web.Request, bind: Bind, own: Collection[str], routes: dict[str, Route]
    ) -> web.StreamResponse:
        route = routes.get("GET" if request.method == "HEAD" else request.method)
        any_host = route is not None and route.any_host and "verbose" not in request.query
        if not any_host and (refusal := refusal_of_host(request, self._browsers, own)):
            log.warning("%s: refused: %s", request.remote or "unknown", refusal)
            return json_response({"error": refusal}, 403)
        if route is None:
            asset = answer_asset(request.path)
            if asset is not None and request.method in ("GET", "HEAD"):
                return asset
            allowed = ", ".join(sorted(routes)) or "GET"
            return web.Response(status=405, text=f"{request.method} is not for this path\n", headers={"Allow": allowed})
        try:
            caller = await identify(request, bind, self._services, self._logins)
        except InvokeError as error:
            return web.Response(status=401, text=f"{error}\n", headers=REALM)
        visit = Visit(request, caller, bind)
        if route.needs:
            visit.require(route.needs)
        answer = await route.answer(visit)
        return answer if isinstance(answer, web.StreamResponse) else json_response(answer)

    def _routes(self) -> Iterator[Route]:
        yield Route(
            "/livez", self._livez, "Whether the server takes requests", "ok", content="text/plain", any_host=True
        )
        for path in ("/readyz", "/healthz"):
            yield Route(
                path,
                self._readyz,
                "Whether every shard answers and the disk has room",
                "200 when it is ready, else 503; with verbose each check is named, which needs @read.",
                query={"verbose": {"type": "string"}},
                content="text/plain",
                any_host=True,
            )
        yield Route(
            "/metrics",
            self._metrics,
            "Figures for Prometheus",
            "The text format of Prometheus, or OpenMetrics if the Accept header asks for it; mappings and rows only for"
            " those who hold @db-admin.",
            READ,
            content="text/plain",
        )
        yield Route("/api/openapi.json", self._openapi, "This document", "An OpenAPI 3.1 document.")
        yield Route("/api/viewer", self._viewer, "Who asks", "The user, or null, and what they may do.")
        yield Route(
            "/api/status", self._status, "How the server stands", "Health, sizes, connections, last builds.", READ
        )
        yield Route(
            "/api/history", self._past, "The last hour", "`names` of the columns, and `samples`, oldest first.", READ
        )
        yield Route(
            "/api/events",
            self._events,
            "What happens, as it does",
            "Server-sent events: `sample`, an item of the history, and `status`.",
            READ,
            content="text/event-stream",
        )
        text = {"type": "string"}
        yield Route(
            "/api/login",
            self._log_in,
            "Log in on the page",
            "The viewer, and a cookie that is it from then on.",
            method="POST",
            body={"username": text, "token": text},
        )
        yield Route(
            "/api/ask",
            self._ask,
            "A command of the protocol",
            f"Its answer, with the same rights; one of {', '.join(sorted(ASKED))}.",
            method="POST",
            body={name: {} if name in WITHOUT_FIELDS else {"type": "object"} for name in sorted(ASKED)},
            one_of=sorted(ASKED),
        )
        yield Route("/api/logout", self._log_out, "Log out", "The viewer that is left.", method="POST")

    # ------------------------------------------------------------------------------------------- for monitoring

    async def _livez(self, _visit: Visit) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, visit: Visit) -> web.Response:
        found = list(checks(*await self._look(), self._services.room))
        ready = all(check.well for check in found if check.needed)
        text = "ready\n" if ready else "not ready\n"
        if "verbose" in visit.request.query:
            visit.require(READ)
            text = "".join(f"{check}\n" for check in found) + text
        return web.Response(status=200 if ready else 503, text=text)

    async def _metrics(self, visit: Visit) -> web.Response:
        # Its import takes a while, which a start need not, nor others who wait here.
        await asyncio.to_thread(import_module, "shardhash.http.metrics")
        from shardhash.http.metrics import Seen, encode_metrics

        health, disk = await self._look()
        whole = self._services.whole
        await whole.look()
        seen = Seen(whole.counters, health, disk, visit.may(DB_ADMIN), whole.processes)
        body, kind = encode_metrics(seen, visit.request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _look(self) -> tuple[Health, Disk | None]:
        """The present health of shards and disk."""
        return await self._services.store.health(), await read_disk(self._data)

    async def _look_lately(self) -> tuple[Health, Disk | None]:
        """The same, as it was within `FRESH` seconds: many pages cost the shards no more than one."""
        async with self._looking:
            if self._looked is None or monotonic() - self._looked[0] > FRESH:
                self._looked = monotonic(), *await self._look()
            return self._looked[1:]

    # --------------------------------------------------------------------------------------------- for the page

    async def _openapi(self, _visit: Visit) -> Json:
        return describe(route for routes in self._by_path.values() for route in routes.values())

    async def _viewer(self, visit: Visit) -> Json:
        return describe_viewer(visit.caller)

    async def _status(self, visit: Visit) -> Json:
        await self._services.whole.look()
        return describe_status(self._services, *await self._look_lately(), visit)

    async def _past(self, _visit: Visit) -> Json:
        return {"names": Sample._fields, "samples": [list(sample) for sample in self._history.samples]}

    async def _events(self, visit: Visit) -> web.StreamResponse:
        if self._streams >= MOST_STREAMS:
            return json_response({"error": f"{MOST_STREAMS} pages watch already; close one, and load again"}, 503)
        response = web.StreamResponse(headers={"Cache-Control": "no-store"} | HEADERS)
        response.content_type = "text/event-stream"
        self._streams += 1
        try:
            await response.prepare(visit.request)
            await self._send_events(response, visit)
        except ConnectionError:
            log.debug("%s: stopped to watch", visit.caller.peer)
        finally:
            self._streams -= 1
        return response

    async def _send_events(self, response: web.StreamResponse, visit: Visit) -> None:
        """Send samples and statuses, for as long as the viewer may see them."""
        number = 0
        while (sample := await self._history.next()) is not None:
            visit = Visit(visit.request, await self._again(visit), visit.bind)
            if not visit.may(READ):
                return
            await response.write(_event("sample", list(sample)))
            if number % STATUS_EVERY == 0:
                await response.write(_event("status", await self._status(visit)))
            number += 1

    async def _again(self, visit: Visit) -> Any:
        """Who watches, by today's rights; one whose login ended is anonymous."""
        if visit.request.cookies.get(COOKIE) is None:
            return visit.caller
        with contextlib.suppress(InvokeError):
            return await identify(visit.request, visit.bind, self._services, self._logins)
        return anonymous(visit.request, visit.bind)

    async def _ask(self, visit: Visit) -> web.Response:
        commands = READ_ONLY_COMMANDS if visit.caller.read_only else COMMANDS
        known = {name: command for name, command in commands.items() if name in ASKED}
        body = await visit.body()
        begun = begin_request(known, body)
        if begun is None:
            raise InvokeError(f"{describe_unknown(known, body)}; here one of {', '.join(sorted(known))} may be asked")
        command, steps = begun
        if not visit.caller.identity.may(command.needs) and not command.or_self:
            raise RightsError(visit.caller, " ".join(sorted(command.needs)))
        request = await _read(steps)
        return await answer_json(await self._handlers.answer(visit.caller, command, request))

    async def _log_in(self, visit: Visit) -> web.Response:
        body = await visit.body()
        username, token = body.get("username"), body.get("token")
        if not isinstance(username, str) or not isinstance(token, str):
            raise InvokeError("'username' and 'token' must be texts")
        caller = anonymous(visit.request, visit.bind)
        try:
            name = await self._logins.log_in(caller, username, token)
        except InvokeError as error:
            self._services.counters.auth_failures += 1
            return json_response({"error": str(error)}, 401)
        log.info("%s: %s logged in on the page", caller.peer, username)
        response = json_response(describe_viewer(caller))
        give_cookie(response, name, secure=visit.request.secure)
        return response

    async def _log_out(self, visit: Visit) -> web.Response:
        await visit.body()
        self._logins.log_out(visit.request.cookies.get(COOKIE, ""))
        response = json_response(describe_viewer(anonymous(visit.request, visit.bind)))
        take_cookie(response)
        return response


async def _read(steps: Steps) -> Request:
    """The request that is read in steps, between which others run. Raises InvalidRequestError."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            request: Request = end.value
            return request
        await asyncio.sleep(0)


def _event(name: str, value: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
