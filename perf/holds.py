"""The longest time for which one message of each kind holds an event loop of the server.

    python -m perf.holds                  all messages
    python -m perf.holds report get-row   some

A server starts with one worker, and each message is sent a few times over TCP and over a WebSocket, by an administrator
who logged in, so that it may be as long as can be. What is printed is the longest callback of the coordinator and of
the worker, in milliseconds of processor time of their event loops (hold_watch.py), and what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from perf import hold_watch
from perf.filling import fill
from perf.hold_jobs import ADMIN, JOBS, MAPPINGS, PASSWORD, Place
from perf.report import save, setting, table
from perf.servers import ROOT, Server, shardhash
from shardhash.client import create_async_client
from shardhash.errors import ShardhashError
from shardhash.wire.batch import EXISTS, GET, Batch, encode_request
from shardhash.wire.framing import encode_json

HELLO = ("OEHASHEQUIV 1.1", "needs-headers: true", "")
MIB = 1 << 20
LINE = 'drwxr-xr-x pseudo root  0  usr/share/doc/a "b" \\ c\n'
METHOD = "perf"
SETTLE = 0.3
"""Seconds after an answer in which the server may still have to do with it."""

Message = Callable[[], list[str | bytes]]
"""What is sent, one request or frame after the other; bytes are frames, for WebSockets only, or lines, for TCP only."""


def _hash() -> str:
    return secrets.token_hex(32)


def _row(**more: Any) -> dict[str, Any]:
    return {"method": METHOD, "taskhash": _hash(), "outhash": _hash(), "unihash": _hash()} | more


def _ask(command: str, **fields: Any) -> str:
    return json.dumps({command: fields})


def _text(size: int) -> str:
    return (LINE * (size // len(LINE) + 1))[:size]


def _report(size: int, text: Callable[[int], str] = _text) -> Message:
    return lambda: [_ask("report", **_row(outhash_siginfo=text(size)))]


def _asked_back(size: int) -> Message:
    def make() -> list[str | bytes]:
        row = _row(outhash_siginfo=_text(size))
        place = {name: row[name] for name in ("method", "taskhash", "outhash")}
        return [
            _ask("report", **row),
            _ask("get", method=METHOD, taskhash=row["taskhash"], all=True),
            _ask("get-outhash", **place, with_unihash=True),
            _ask("get-row", **place),
        ]

    return make


def _imported(rows: int, size: int) -> Message:
    created = 1_700_000_000_000_000
    return lambda: [
        _ask("import-batch", rows=[_row(created=created, outhash_siginfo=_text(size)) for _ in range(rows)])
    ]


MESSAGES: dict[str, Message] = {
    "report-64K": _report(64 << 10),
    "report-250K": _report(250 << 10),
    "report-1M": _report(MIB),
    "report-4M": _report(4 * MIB),
    "report-7M-plain": _report(7 * MIB, lambda size: "x" * size),
    "report-7M-umlauts": _report(7 * MIB, lambda size: "é" * (size // 6)),
    "report-7M-random": _report(7 * MIB, lambda size: secrets.token_hex(size // 2)),
    "report-most": _report(50 * MIB),
    "get-rows": _asked_back(6 * MIB),
    "report-batch": lambda: [_ask("report-batch", reports=[_row(PN="zlib") for _ in range(2200)])],
    "report-batch-64K": lambda: [
        _ask("report-batch", reports=[_row(outhash_siginfo=_text(64 << 10)) for _ in range(100)])
    ],
    "report-batch-odd": lambda: [_ask("report-batch", reports=[_row(PN=1) for _ in range(2200)])],
    "report-batch-odder": lambda: [
        _ask(
            "report-batch",
            reports=[
                {"method": "m", "taskhash": "t", "outhash": f"o{n}", "unihash": _hash()}
                | dict.fromkeys(("owner", "PN", "PV", "PR", "task"), 1)
                for n in range(1950)
            ],
        )
    ],
    "report-batch-methods": lambda: [
        _ask("report-batch", reports=[_row(PN="zlib") | {"method": _hash()[:8]} for _ in range(2000)])
    ],
    "report-batch-nothing": lambda: ['{"report-batch": {"reports": [' + "{}," * 9_900 + "{}]}}"],
    "get-batch": lambda: [_ask("get-batch", method=METHOD, taskhashes=[_hash() for _ in range(11_000)])],
    "get-batch-texts": lambda: [_ask("get-batch", method=METHOD, taskhashes=[f"t{n}" for n in range(16_000)])],
    "exists-batch": lambda: [_ask("exists-batch", unihashes=[_hash() for _ in range(11_000)])],
    "import-rows": _imported(500, 500),
    "import-long": _imported(1, 6 * MIB),
    "import-mappings": lambda: [
        _ask(
            "import-batch",
            mappings=[{"method": METHOD, "taskhash": _hash(), "unihash": _hash()} for _ in range(3500)],
        )
    ],
    "import-users": lambda: [
        _ask("import-batch", users=[{"username": "a b", "token": "x", "permissions": []} for _ in range(3900)])
    ],
    "objects": lambda: ['{"report": {"x": [' + '{"a":1},' * 9_900 + "1]}}"],
    "names": lambda: ['{"report": {' + ",".join(f'"{n}":1' for n in range(19_900)) + "}}"],
    "surrogates": lambda: ['{"ping": ["\\ud800"' + ",1" * 19_900 + "]}"],
    "values": lambda: ['{"report": {"x": [' + "1," * 19_900 + "1]}}"],
    "pings": lambda: [b'{"ping": {}}\n' * 50_000],
    "gets": lambda: [b'{"get": {"method": "m", "taskhash": "t"}}\n' * 20_000],
    "get-stream": lambda: [
        b'{"get-stream": null}\n' + b"".join(b"m %s\n" % _hash().encode() for _ in range(30_000)) + b"END\n"
    ],
    "exists-stream": lambda: [
        b'{"exists-stream": null}\n' + b"".join(b"%s\n" % _hash().encode() for _ in range(30_000)) + b"END\n"
    ],
    "gc-mark-stream": lambda: [
        b'{"gc-mark-stream": null}\n'
        + b"".join(b'{"mark": "m", "where": {"unihash": "%s"}}\n' % _hash().encode() for _ in range(20_000))
        + b"END\n"
    ],
    "get-frame": lambda: [encode_request(Batch(GET, METHOD, secrets.token_bytes(32 * 65_536)))],
    "exists-frame": lambda: [encode_request(Batch(EXISTS, "", secrets.token_bytes(32 * 65_536)))],
}
LINES = frozenset(("pings", "gets", "get-stream", "exists-stream", "gc-mark-stream"))
"""For TCP only."""
FRAMES = frozenset(("get-frame", "exists-frame"))
"""For WebSockets only."""
EDGE: dict[str, Message] = {
    "edge-row": _asked_back(6 * MIB),
    "edge-report": _report(6 * MIB),
    "edge-batch": lambda: [_ask("report-batch", reports=[_row(PN="zlib") for _ in range(2200)])],
}
"""For an edge server that sends on what it is told over either transport; the row is told to its upstream, and asked
of the edge."""
FORWARD_LIMIT = 30.0
"""Seconds until what an edge was told has to be at the upstream."""


async def send_lines(server: Server, parts: list[str | bytes]) -> str:
    """Over TCP; the last answer's beginning."""
    host, _, port = server.addresses["tcp"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 30)
    try:
        writer.write("\n".join((*HELLO, "")).encode())
        while (await reader.readline()).strip():
            pass
        writer.write(encode_json(_ask("auth", username=ADMIN, token=PASSWORD).encode()))
        await reader.readline()
        answer = b""
        for part in parts:
            writer.write(part if isinstance(part, bytes) else encode_json(part.encode()))
            if isinstance(part, bytes):
                lines = part.count(b"\n")
                while lines and (answer := await reader.readline()):
                    lines -= 1
                continue
            answer = await reader.readline()
            if b"chunk-stream" in answer[:20]:
                while piece := (await reader.readline()).strip():
                    answer = piece
        return answer[:100].decode("utf-8", "replace")
    except ConnectionError:
        return "closed"
    finally:
        writer.transport.abort()


async def send_messages(server: Server, parts: list[str | bytes]) -> str:
    """Over a WebSocket; the last answer's beginning."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.addresses["ws"], max_msg_size=0, compress=0) as socket,
    ):
        for line in HELLO:
            await socket.send_str(line)
        while (await socket.receive()).data:
            pass
        await socket.send_str(_ask("auth", username=ADMIN, token=PASSWORD))
        await socket.receive()
        answer: Any = ""
        try:
            for part in parts:
                if isinstance(part, bytes):
                    await socket.send_bytes(part)
                else:
                    await socket.send_str(part)
                answer = (await socket.receive()).data
        except ConnectionError:
            return "closed"
    return str(answer)[:100]


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Processes that are started here watch their loops."""
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text("from perf.hold_watch import install\ninstall()\n", encoding="ascii")
    before = dict(os.environ)
    os.environ |= {
        hold_watch.FOLDER: str(folder),
        "PYTHONPATH": os.pathsep.join((str(hook), str(ROOT), os.environ.get("PYTHONPATH", ""))),
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def longest(folder: Path, pids: list[int], since: float) -> tuple[float, str]:
    """Milliseconds of the longest callback of some processes since a time, and what it was."""
    found = (0.0, "")
    for pid in pids:
        path = folder / str(pid)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            when, took, what = line.split(" ", 2)
            if float(when) >= since and float(took) * 1e3 > found[0]:
                found = float(took) * 1e3, what
    return found


Held = list[tuple[float, str]]
"""The longest callback of each time: its milliseconds, and what it was."""


def figure(message: str, over: str, held: Held, workers: Held, answer: str) -> dict[str, Any]:
    """What is kept of all times, and is printed: the least of the longest, for others on the machine make some longer.

    `held` is the coordinator's, `workers` may be empty.
    """
    (coordinator, what), (worker, at_worker) = min(held), min(workers, default=(0.0, ""))
    said = f"{message} {over}".strip()
    said = f"{said}: {coordinator:.1f} ms {what}, worker {worker:.1f} ms {at_worker}: {answer[:60]}"
    print(said, file=sys.stderr, flush=True)
    return {
        "message": message, "over": over, "coordinator_ms": coordinator, "what": what,
        "worker_ms": worker, "at_worker": at_worker, "answer": answer,
    }  # fmt: skip


async def measure(server: Server, folder: Path, names: list[str], times: int) -> list[dict[str, Any]]:
    """Each message over each transport that it is for."""
    figures: list[dict[str, Any]] = []
    for name in names:
        for transport, send, left_out in (("tcp", send_lines, FRAMES), ("ws", send_messages, LINES)):
            if name in left_out:
                continue
            held, workers, answer = Held(), Held(), ""
            for _ in range(times):
                parts = MESSAGES[name]()
                since = time.monotonic()
                answer = await send(server, parts)
                await asyncio.sleep(SETTLE)
                held.append(longest(folder, server.roles["coordinator"], since))
                workers.append(longest(folder, server.roles["workers"], since))
            figures.append(figure(name, transport, held, workers, answer))
    return figures


async def measure_edge(folder: Path, names: list[str], times: int) -> list[dict[str, Any]]:
    """Each message at an edge server, whose upstream is reached over each transport."""
    figures: list[dict[str, Any]] = []
    arguments = ("--admin-user", ADMIN, "--admin-password", PASSWORD, "--log", "ERROR")
    for transport in ("tcp", "ws") if names else ():
        with shardhash(1, durable=True, arguments=arguments) as far:
            upstream = ("--upstream", far.addresses[transport], "--forward")
            with shardhash(1, durable=True, arguments=(*arguments, *upstream)) as edge:
                for name in names:
                    held, answer = Held(), ""
                    for _ in range(times):
                        parts = EDGE[name]()
                        if name == "edge-row":
                            await send_lines(far, parts[:1])
                            parts = parts[1:2]
                        since = time.monotonic()
                        answer = await send_lines(edge, parts)
                        await forwarded(edge)
                        await asyncio.sleep(SETTLE)
                        held.append(longest(folder, edge.roles["coordinator"], since))
                    figures.append(figure(name, transport, held, [], answer))
    return figures


async def measure_jobs(place: Place, folder: Path, names: list[str], times: int) -> list[dict[str, Any]]:
    """Each job, on a table of a million mappings."""
    figures: list[dict[str, Any]] = []
    since = time.monotonic()
    for name in names:
        before, job = JOBS[name]
        held, workers, answer = Held(), Held(), ""
        for _ in range(times):
            try:
                await before(place)
                await asyncio.sleep(SETTLE)
                since = time.monotonic()
                answer = await job(place)
            except ShardhashError as error:
                answer = str(error)
            await asyncio.sleep(SETTLE)
            held.append(longest(folder, place.server.roles["coordinator"], since))
            workers.append(longest(folder, place.server.roles["workers"], since))
        figures.append(figure(name, "", held, workers, answer))
    return figures


def measure_large(folder: Path, names: list[str], times: int) -> list[dict[str, Any]]:
    """The jobs, at a server with a large table."""
    if not names:
        return []
    with TemporaryDirectory(prefix="shardhash-holds-data-") as name:
        data = Path(name) / "data"
        fill(data, 1, MAPPINGS, rows=True)
        arguments = ("--admin-user", ADMIN, "--admin-password", PASSWORD, "--log", "ERROR")
        with shardhash(1, data=data, arguments=arguments) as server:
            return asyncio.run(measure_jobs(Place(server, data), folder, names, times))


async def forwarded(edge: Server) -> None:
    """Wait until nothing waits to be sent on."""
    async with asyncio.timeout(FORWARD_LIMIT), await create_async_client(edge.addresses["tcp"], ADMIN, PASSWORD) as one:
        while (await one.forwarding(0))["waiting"]:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.05)


def main() -> None:
    """Measure and print; with --json, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(MESSAGES | EDGE | JOBS)
    parser.add_argument("messages", nargs="*", metavar="MESSAGE", help=f"of {', '.join(known)} (default all)")
    parser.add_argument("--times", type=int, default=3, help="how often each is sent; the best counts (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if unknown := set(options.messages) - set(known):
        parser.error(f"no message is called {', '.join(sorted(unknown))}")
    with TemporaryDirectory(prefix="shardhash-holds-") as name, watched(Path(name)):
        arguments = ("--admin-user", ADMIN, "--admin-password", PASSWORD, "--log", "ERROR")
        wanted = options.messages or known
        with shardhash(1, durable=True, arguments=arguments) as server:
            figures = asyncio.run(
                measure(server, Path(name), [one for one in wanted if one in MESSAGES], options.times)
            )
        figures += measure_large(Path(name), [one for one in wanted if one in JOBS], options.times)
        figures += asyncio.run(measure_edge(Path(name), [one for one in wanted if one in EDGE], options.times))
    rows = [
        [each["message"], each["over"], f"{each['coordinator_ms']:.1f}", each["what"], f"{each['worker_ms']:.1f}",
         each["at_worker"], each["answer"][:40]]
        for each in figures
    ]  # fmt: skip
    print(table(["message", "over", "coordinator ms", "", "worker ms", "", "answer"], rows))
    if options.json:
        save(options.json, setting() | {"holds": figures})


if __name__ == "__main__":
    main()
