"""Assets: the files of the page, from the package, with what keeps a browser from loading or running anything else."""

from __future__ import annotations

from functools import cache
from importlib import resources

from aiohttp import web

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer."""
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}


@cache
def read_assets() -> dict[str, tuple[bytes, str]]:
    """Every file by its path on the site, and its content type."""
    found = {}
    for file in resources.files("shardhash.http").joinpath("assets").iterdir():
        name = file.name
        kind = TYPES.get(name[name.rindex(".") :])
        if kind is not None:
            found["/" if name == "index.html" else f"/assets/{name}"] = (file.read_bytes(), kind)
    return found


def answer_asset(path: str) -> web.Response | None:
    """The file at a path; None when there is none."""
    found = read_assets().get(path)
    if found is None:
        return None
    body, kind = found
    return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})
