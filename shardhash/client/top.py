"""``shardhash top``: a server at a glance in a terminal, by its HTTP interface (``--http``, or a ws:// address)."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from shardhash.base import options
from shardhash.base.command_line import INTERRUPTED, parser_of
from shardhash.base.options import Options
from shardhash.base.secrets import PASSWORD, hide_secret, refuse_password_alone
from shardhash.base.text import printable

DEFAULT_ADDRESS = "http://127.0.0.1:9464"
LIMIT = 30.0
"""Seconds that an answer may take."""
BARS = " ▁▂▃▄▅▆▇█"
SHOWN = {
    "lookups": ("lookups a second", ""),
    "hit_rate": ("known", " %"),
    "p99": ("99 of 100 within", " ms"),
    "reports": ("reports a second", ""),
    "reused": ("reused a second", ""),
    "connections": ("connections", ""),
}
"""Columns of the history, how they are called, and their unit."""

DESCRIPTION = """\
Watch a server: is it well, what is it doing, how big is it. It shows what the page at the same address shows, with the
rights that the address gives, or those of a user.
"""
EXAMPLES = """\
examples:
  shardhash top                                          a server with --http 9464 on this machine
  shardhash top --address ws://hash.example.com:8686     the address that builds use
  shardhash top --once                                   once, for a script or a ticket
"""


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash top`; its exit status."""
    known = _options()
    given = known.parse(arguments)
    refuse_password_alone(known, given, arguments)
    hide_secret(["--password", "-p"], PASSWORD, arguments)
    url = given.address.replace("wss://", "https://").replace("ws://", "http://").rstrip("/")
    headers = {}
    if given.login:
        named = base64.b64encode(f"{given.login}:{given.password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {named}"
    try:
        while True:
            lines = list(describe(_get(url, "/api/status", headers), _get(url, "/api/history", headers)))
            sys.stdout.write("" if given.once else "\x1b[H\x1b[J")
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            if given.once:
                return 0
            time.sleep(given.interval)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError) as error:
        sys.stderr.write(f"shardhash top: {url}: {_reason(error)}\n")
        return 1


def _options() -> Options:
    known = Options(parser_of("top", DESCRIPTION, EXAMPLES))
    known.add(
        "--address",
        "SHARDHASH_TOP_ADDRESS",
        metavar="URL",
        default=DEFAULT_ADDRESS,
        help="http://HOST:PORT of --http, or a ws:// address",
    )
    known.add("--login", "SHARDHASH_LOGIN", short="-l", metavar="USER", help="log in as this user")
    known.add("--password", PASSWORD, short="-p", metavar="TOKEN", help="that user's token; better by the variable")
    known.add(
        "--interval",
        "SHARDHASH_TOP_INTERVAL",
        metavar="TIME",
        convert=options.seconds,
        default=2.0,
        help="between two looks",
    )
    known.parser.add_argument("--once", action="store_true", help="look once, and end")
    return known


def describe(status: Mapping[str, Any], history: Mapping[str, Any]) -> Iterator[str]:
    """What is shown, a line each; texts of others cannot steer the terminal."""
    width = shutil.get_terminal_size((100, 30)).columns
    trouble = [check for check in status["checks"] if not check["well"]]
    state = "all is well" if not trouble else "ready, with trouble" if status["ready"] else "NOT READY"
    yield f"shardhash {status['version']}, {state}"
    for check in trouble:
        yield f"  ! {printable(check['name'])}: {printable(check['text'])}"
    yield ""
    samples, names = history["samples"], history["names"]
    for column, (title, unit) in SHOWN.items():
        values = [sample[names.index(column)] for sample in samples]
        last = "-" if not values or values[-1] is None else f"{values[-1]:,g}{unit}"
        yield f"{title:<18}{last:>12}  {sparkline(values, max(10, width - 34))}"
    yield ""
    totals = status["totals"]
    yield (
        f"since the start: {totals['lookups']:,} lookups, {totals['hits']:,} known, {totals['reports']:,} reports,"
        f" {totals['reused']:,} reused, {totals['dropped']:,} not stored"
    )
    if status["mappings"] is not None:
        yield f"{status['mappings']:,} mappings, {status['rows']:,} outhash rows"
    if status["disk"] is not None:
        yield f"disk: {status['disk']['free'] / 2**30:.1f} of {status['disk']['total'] / 2**30:.1f} GiB free"
    builds = [build for build in status["builds"] if build["hits"] + build["misses"] + build["reports"]]
    if builds:
        yield ""
        yield f"{'last builds':<26}{'lookups':>12}{'known':>8}{'reports':>10}{'reused':>8}"
    for build in builds[:5]:
        asked = build["hits"] + build["misses"]
        known = f"{100 * build['hits'] / asked:.0f} %" if asked else "-"
        host = printable(build["host"] or "a builder")[:25]
        yield f"{host:<26}{asked:>12,}{known:>8}{build['reports']:>10,}{build['reused']:>8,}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last values as bars of a character each, the highest full; a space where there is none."""
    shown = values[-width:]
    most = max((value for value in shown if value is not None), default=0) or 1
    return "".join(" " if value is None else BARS[max(1, round(8 * value / most))] for value in shown)


def _get(url: str, path: str, headers: Mapping[str, str]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError("the address must begin with http://, https://, ws:// or wss://")
    with urlopen(Request(url + path, headers=dict(headers)), timeout=LIMIT) as answer:
        return json.load(answer)


def _reason(error: Exception) -> str:
    """In words, the server's own where it has some."""
    if isinstance(error, HTTPError):
        text = error.read().decode(errors="replace")
        try:
            return printable(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            return printable(text.strip() or str(error))[:300]
    if isinstance(error, URLError):
        return f"it cannot be reached: {error.reason}; does the server have --http, or a ws:// bind there?"
    return str(error)
