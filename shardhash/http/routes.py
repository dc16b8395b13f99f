"""Routes: what a path of the site answers, to whom, and how it is described."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from aiohttp import web

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.callers import Caller
from shardhash.errors import InvalidRequestError, InvokeError, LimitError
from shardhash.wire.framing import check_values
from shardhash.wire.long_text import JsonPieces

MOST_VALUES = 20_000
"""JSON values of a body, about."""

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: who asks, and the bind by which it came in."""

    request: web.Request
    caller: Caller
    bind: Bind

    async def body(self) -> Json:
        """The JSON object that was sent. Raises InvalidRequestError."""
        if self.request.content_type != "application/json":
            raise InvalidRequestError("the body must be JSON, and say so: Content-Type: application/json")
        try:
            text = await self.request.read()
            check_values(text, MOST_VALUES)  # they take 0.1 us each
            value = orjson.loads(text)
        except LimitError:
            raise InvalidRequestError(
                f"the body holds more than {MOST_VALUES} JSON values; send it as several"
            ) from None
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidRequestError("the body must be a JSON object")
        return value

    def may(self, permission: str) -> bool:
        """Whether the viewer holds a permission."""
        return self.caller.identity.may(frozenset((permission,)))

    def require(self, permission: str) -> None:
        """Raises RightsError unless the viewer holds it."""
        if not self.may(permission):
            raise RightsError(self.caller, permission)


class RightsError(InvokeError):
    """The viewer may not see this, or not do it."""

    def __init__(self, caller: Caller, permission: str) -> None:
        self.anonymous = caller.identity.username is None
        super().__init__(
            f"{caller.identity.name} needs {permission} for this: log in as a user who has it, by the page or by HTTP"
            " basic authentication with the user's token"
        )


Answer: TypeAlias = Callable[[Visit], Awaitable[web.StreamResponse | Json | list[Any]]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path. `needs` is the permission it takes, "" for none; a JSON answer may be given as plain values.

    `query`, `body`: the fields it takes, as JSON schemas; `answers`: what it gives, in words.
    """

    path: str
    answer: Answer
    summary: str
    answers: str
    needs: str = ""
    method: str = "GET"
    query: Mapping[str, Json] = field(default_factory=dict)
    body: Mapping[str, Json] = field(default_factory=dict)
    one_of: Sequence[str] = ()
    """Fields of the body of which one has to be there; if there are none, all have to."""
    content: str = "application/json"
    any_host: bool = False
    """Whether any Host header is accepted, as load balancers need."""


async def answer_json(value: Any) -> web.Response:
    """A JSON answer that may hold long texts."""
    pieces = []
    for piece in JsonPieces(value, orjson.OPT_NON_STR_KEYS):
        pieces.append(piece)
        await asyncio.sleep(0)
    return _response(b"".join(pieces), 200)


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON answer, which no cache keeps."""
    return _response(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), status)


def _response(body: bytes, status: int) -> web.Response:
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
