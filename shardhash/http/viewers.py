"""Viewers: who asks over HTTP, and what they may see.

A viewer holds what the address gives to anonymous connections; or what a user may do who logged in on the page, or who
names itself by HTTP basic authentication: nothing is shown here that the same one could not ask through the protocol.

A page of another site can send a browser here, too. It cannot read the answer, because no answer allows it to; its
requests carry no cookie of ours (SameSite); and what changes something takes JSON, which such a page may send only
after asking, and nobody answers that. The Host must be the server's own (coordinator/origins.py), since a browser asks
without an Origin for what its page takes for its own server.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

from aiohttp import web

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.callers import Caller
from shardhash.coordinator.origins import Browsers, is_own_host, refusal_of_origin
from shardhash.coordinator.services import Services
from shardhash.errors import InvokeError
from shardhash.http.logins import COOKIE, Logins

REALM = {"WWW-Authenticate": 'Basic realm="shardhash", charset="UTF-8"'}


def anonymous(request: web.Request, bind: Bind) -> Caller:
    """The anonymous viewer of an address."""
    return Caller(bind.anonymous, bind.read_only, peer=request.remote or "unknown", transport="http")


async def identify(request: web.Request, bind: Bind, services: Services, logins: Logins) -> Caller:
    """Who asks. Raises InvokeError when a user and token are given and wrong."""
    caller = anonymous(request, bind)
    login = logins.find(request.cookies.get(COOKIE))
    if login is not None and services.store.lapsed:
        await services.users.check_again(login)
        login = logins.find(request.cookies.get(COOKIE))
    if login is not None:
        caller.identity, caller.login = login.identity, login.login
    elif (given := request.headers.get("Authorization")) is not None:
        username, token = _credentials(given)
        try:
            caller.identity, _ = await services.users.authenticate(username, token, caller)
        except InvokeError:
            services.counters.auth_failures += 1
            raise
        caller.login = username
    return caller


def refusal_of_host(request: web.Request, browsers: Browsers, own: Collection[str]) -> str | None:
    """Why nothing is shown to this request, in words; None when it may be."""
    host = request.headers.get("Host")
    if refusal := refusal_of_origin(request.headers.get("Origin"), host, browsers, own):
        return refusal
    if not is_own_host(host, browsers, own):
        return f"the Host {host!r} is not known as this server's; allow it by --allow-host NAME"
    return None


def _credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        username, colon, token = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        if not colon:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvokeError("the Authorization header is not HTTP basic: give a user and its token") from None
    return username, token
