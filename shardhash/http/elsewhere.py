"""Plain HTTP of a server with several coordinators: its page, health and figures are at one address, of the first one.

What came in by the addresses that all of them accept at would meet now this one and now that one, of which only the
first knows who logged in on the page.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.listeners import Plain


async def elsewhere(_request: web.Request, _bind: Bind, _own: Collection[str]) -> web.Response:
    """The answer at an address that all coordinators accept at."""
    text = "This server has several coordinators: its page, health and metrics are at the address of --http alone.\n"
    return web.Response(status=421, text=text)


def only_at(place: Bind | None, answer: Plain) -> Plain:
    """The answer at this place, and `elsewhere` at any other."""

    async def plain(request: web.Request, bind: Bind, own: Collection[str]) -> web.StreamResponse | None:
        if place is not None and bind.address == place.address:
            return await answer(request, bind, own)
        return await elsewhere(request, bind, own)

    return plain
