"""Attacks on a server: what an enemy, or a farm that restarts all at once, may do to it. Each runs until cancelled.

An attack connects as anyone can, and goes on when it is thrown out: the server has to bear that as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from shardhash.client import create_async_client
from shardhash.errors import InvokeError, ProtocolError
from shardhash.wire.batch import EXISTS, GET, Batch, encode_request
from shardhash.wire.framing import encode_json

HELLO = b"OEHASHEQUIV 1.1\nneeds-headers: false\n\n"
ADMIN, PASSWORD = "admin", "correct horse battery staple"
METHOD = "attack"
ATTACKER = "127.0.0.2"
"""Where attackers come from: limits are of a host."""
BUILDER = "attacked-builder"
"""A user that an attack makes, and that the administrator deletes meanwhile."""
PAUSE = 0.05
"""Seconds before an attacker that was thrown out comes again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers."""

    tcp: str
    ws: str
    scale: float = 1.0
    """How many attackers there are, as a part of the usual number."""

    def some(self, number: int) -> range:
        """So many attackers, by the scale; one at least."""
        return range(max(1, round(number * self.scale)))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A raw connection, from another host than the innocent ones."""
        host, _, port = self.tcp.rpartition(":")
        return await asyncio.open_connection(host, int(port), local_addr=(ATTACKER, 0))


Work = Callable[[Target], Awaitable[None]]


async def again(target: Target, work: Work) -> None:
    """Do it again whenever it ends or the server ends it."""
    while True:
        with contextlib.suppress(OSError, EOFError, InvokeError, ProtocolError, aiohttp.ClientError):
            await work(target)
        await asyncio.sleep(PAUSE)


async def crowd(target: Target, number: int, work: Work) -> None:
    """So many at once."""
    await asyncio.gather(*(again(target, work) for _ in target.some(number)))


async def _send(target: Target, *parts: bytes, read: bool = False, rate: float = 0.0) -> None:
    """Send the last part again and again, `rate` bytes a second if that is not 0; read what comes, or nothing."""
    reader, writer = await target.open()
    reading = asyncio.create_task(_swallow(reader)) if read else None
    try:
        for part in parts[:-1]:
            writer.write(part)
        while True:
            writer.write(parts[-1])
            await writer.drain()
            if rate:
                await asyncio.sleep(len(parts[-1]) / rate)
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()


def _auth(name: str, token: str) -> bytes:
    return json.dumps({"auth": {"username": name, "token": token}}).encode() + b"\n"


async def _user(target: Target, *permissions: str) -> tuple[str, str]:
    """The name and token of a new user."""
    async with await create_async_client(target.tcp, ADMIN, PASSWORD) as client:
        name = f"builder-{secrets.token_hex(4)}"
        return name, (await client.new_user(name, list(permissions)))["token"]


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 20):
        pass


async def _send_once(target: Target, data: bytes, hold: float = 3600.0) -> None:
    """Send something and stay until thrown out."""
    reader, writer = await target.open()
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(hold):
            await _swallow(reader)
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


# ------------------------------------------------------------------------------------------------------- time


async def pings(target: Target) -> None:
    """Pipelined pings, 1 MB/s."""
    await crowd(target, 1, lambda at: _send(at, HELLO, b'{"ping": {}}\n' * 1000, read=True, rate=1e6))


async def ping_flood(target: Target) -> None:
    """Pipelined pings from eight connections, as fast as they are taken."""
    await crowd(target, 8, lambda at: _send(at, HELLO, b'{"ping": {}}\n' * 5000, read=True))


async def pieces(target: Target) -> None:
    """A chunk-stream in pieces of one byte."""
    await crowd(target, 4, lambda at: _send(at, HELLO + b'{"chunk-stream": null}\n{"report": "\n', b"x\n" * 50_000))


async def large_messages(target: Target) -> None:
    """One message at a time: a report of 60 MB, two million values, integers of thousands of digits."""
    siginfo = json.dumps({"report": {"method": METHOD, "outhash_siginfo": "x" * 60_000_000}}).encode()
    values = b'{"ping": [' + b"1," * 2_000_000 + b"1]}"
    digits = b'{"ping": [' + b",".join([b"9" * 4299] * 14_600) + b"]}"

    async def send(at: Target, message: bytes) -> None:
        await _send_once(at, HELLO + encode_json(message), 2.0)

    await asyncio.gather(*(again(target, lambda at, m=m: send(at, m)) for m in (siginfo, values, digits)))  # type: ignore[misc]


async def large_requests(target: Target) -> None:
    """The same of one who is logged in, and batches of as many reports and hashes as are taken."""
    name, token = await _user(target, "@read", "@report")
    hashes = [secrets.token_hex(32) for _ in range(60_000)]
    rows = [{"method": METHOD, "taskhash": one, "outhash": one, "unihash": one, "PN": "zlib"} for one in hashes[:9000]]
    requests: tuple[Any, ...] = (
        {"report": rows[0] | {"outhash_siginfo": "x" * 60_000_000}},
        {"report": rows[0] | {"outhash_siginfo": "x" * 7_900_000}},
        {"report-batch": {"reports": rows}},
        {"get-batch": {"method": METHOD, "taskhashes": hashes}},
        {"gc-mark": {"mark": "x" * 4_000_000, "where": {}}},
    )
    texts = [json.dumps(one).encode() for one in requests]
    texts += [b'{"ping": [' + b"1," * 2_000_000 + b"1]}", b'{"ping": [' + b",".join([b"9" * 4299] * 14_600) + b"]}"]
    texts += [b'{"ping": ["\\ud800"' + b",1" * 40_000 + b"]}"]

    async def send(at: Target, text: bytes) -> None:
        await _send_once(at, HELLO + _auth(name, token) + encode_json(text), 2.0)

    await asyncio.gather(*(again(target, lambda at, t=t: send(at, t)) for t in texts))  # type: ignore[misc]


async def huge_blocks(target: Target) -> None:
    """One client that asks for 100,000 lines, again and again, as fast as it is answered."""
    lines = b"".join(b"%s %s\n" % (METHOD.encode(), secrets.token_hex(32).encode()) for _ in range(100_000))
    await crowd(target, 1, lambda at: _send(at, HELLO + b'{"get-stream": null}\n', lines, read=True))


async def report_batches(target: Target) -> None:
    """Two clients that report what is new, a thousand tasks in a message."""

    async def work(at: Target) -> None:
        async with await create_async_client(at.tcp) as client:
            while True:
                hashes = [secrets.token_hex(32) for _ in range(1000)]
                row = {"method": METHOD, "PN": "zlib", "task": "do_compile"}
                rows = [row | {"taskhash": one, "outhash": one, "unihash": one} for one in hashes]
                await client.report_unihash_batch(rows)

    await crowd(target, 2, work)


async def short_lines(target: Target) -> None:
    """Stream lines of a few bytes, and as many methods as lines."""
    lines = b"".join(b"m%d t\n" % number for number in range(90_000))
    await crowd(target, 2, lambda at: _send(at, HELLO + b'{"get-stream": null}\n', lines, read=True))


@contextlib.asynccontextmanager
async def _native(at: Target) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket that may send native batches."""
    async with aiohttp.ClientSession() as session, session.ws_connect(at.ws, max_msg_size=0, compress=0) as socket:
        for line in ("OEHASHEQUIV 1.1", "needs-headers: true", ""):
            await socket.send_str(line)
        while await socket.receive_str():
            pass
        yield socket


async def frames(target: Target) -> None:
    """Native batches as large as the server takes, over six WebSockets."""

    async def ask(at: Target) -> None:
        async with _native(at) as socket:
            frame = encode_request(Batch(GET, METHOD, secrets.token_bytes(32 * 65_536)))
            while True:
                await socket.send_bytes(frame)
                await socket.receive_bytes()

    await crowd(target, 6, ask)


async def exists_frames(target: Target) -> None:
    """The same of existence checks, which every worker answers."""

    async def ask(at: Target) -> None:
        async with _native(at) as socket:
            frame = encode_request(Batch(EXISTS, "", secrets.token_bytes(32 * 65_536)))
            while True:
                await socket.send_bytes(frame)
                await socket.receive_bytes()

    await crowd(target, 6, ask)


async def many_methods(target: Target) -> None:
    """A hundred thousand methods stored, or as many as may be, then existence checks, which concern all of them."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(await create_async_client(target.tcp))
        stack.enter_context(contextlib.suppress(InvokeError))  # --server --limit --server peer_methods=N takes more
        hashes = [secrets.token_hex(32) for _ in range(max(1, round(100_000 * target.scale)))]
        await client.report_unihash_batch(
            [{"method": f"m{one}", "taskhash": one, "outhash": one, "unihash": one} for one in hashes]
        )

    async def check(at: Target) -> None:
        async with await create_async_client(at.tcp) as client:
            while True:
                await client.unihash_exists_batch([secrets.token_hex(32) for _ in range(10)])

    await crowd(target, 4, check)


async def checks_in_methods(target: Target) -> None:
    """Existence checks as large as the server takes, where each is looked up in thirty-two methods."""
    async with await create_async_client(target.tcp) as client:
        hashes = [secrets.token_hex(32) for _ in range(32 * 200)]
        rows = [
            {"method": f"m{n % 32}", "taskhash": one, "outhash": one, "unihash": one} for n, one in enumerate(hashes)
        ]
        await client.report_unihash_batch(rows)
    await exists_frames(target)


async def odd_batches(target: Target) -> None:
    """Batches of what is no report: of empty objects, of values that are no texts, of as many values as are taken."""
    odd = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": "ab" * 32}
    odd |= dict.fromkeys(("owner", "PN", "PV", "PR", "task"), 1)  # type: ignore[arg-type]  # on purpose
    texts = [
        b'{"report-batch": {"reports": [' + b"{}," * 14_000 + b"{}]}}",
        json.dumps({"report-batch": {"reports": [odd] * 2700}}).encode(),
        b'{"report": {"x": [' + b'{"a":1},' * 14_000 + b"1]}}",
        b'{"report": {"x": [' + b'{"a":1},' * 90_000 + b"1]}}",
    ]

    async def send(at: Target, text: bytes) -> None:
        await _send_once(at, HELLO + encode_json(text), 2.0)

    await asyncio.gather(*(crowd(target, 2, partial(send, text=text)) for text in texts))


async def huge_frames(target: Target) -> None:
    """Native batches of two million digests, of both kinds, which are refused, over six WebSockets."""
    digests = bytes(32 * 2_000_000)

    async def ask(at: Target, frame: bytes) -> None:
        async with _native(at) as socket:
            await socket.send_bytes(frame)
            await socket.receive()

    frames = [encode_request(Batch(kind, METHOD if kind == GET else "", digests)) for kind in (GET, EXISTS)]
    await asyncio.gather(*(crowd(target, 3, partial(ask, frame=frame)) for frame in frames))


async def removals(target: Target) -> None:
    """Removals that look at every row, whose clients leave at once."""

    async def remove(at: Target) -> None:
        await _send_once(at, HELLO + b'{"remove": {"where": {"PN": "no such"}}}\n', 0.05)

    await crowd(target, 20, remove)


async def removals_by_siginfo(target: Target) -> None:
    """The same by siginfo, which lies on the disk."""

    async def remove(at: Target) -> None:
        await _send_once(at, HELLO + b'{"remove": {"where": {"outhash_siginfo": "no such"}}}\n', 0.05)

    await crowd(target, 20, remove)


async def scanning_marks(target: Target) -> None:
    """Marks that alternate and look at every mapping, whose clients leave at once."""
    lines = b"".join(b'{"mark": "m%d", "where": {"gc_mark": "none"}}\n' % (number % 2) for number in range(2000))
    await crowd(target, 4, lambda at: _send_once(at, HELLO + b'{"gc-mark-stream": null}\n' + lines, 0.1))


async def marks(target: Target) -> None:
    """Marks that alternate, whose clients leave at once."""
    lines = b"".join(b'{"mark": "m%d", "where": {"method": "none"}}\n' % (number % 2) for number in range(2000))
    await crowd(target, 4, lambda at: _send_once(at, HELLO + b'{"gc-mark-stream": null}\n' + lines, 0.1))


# ------------------------------------------------------------------------------------------------------ space


async def unfinished(target: Target) -> None:
    """Messages of 60 MB that never end, on thirty connections."""
    await crowd(
        target,
        30,
        lambda at: _send_once(at, HELLO + b'{"chunk-stream": null}\n{"report": "' + (b"x" * 32000 + b"\n") * 1900),
    )


async def unread_streams(target: Target) -> None:
    """A hundred clients that send a million stream lines each and read nothing."""
    lines = b"".join(b"%s %s\n" % (METHOD.encode(), secrets.token_hex(32).encode()) for _ in range(1000))
    await crowd(target, 100, lambda at: _send(at, HELLO + b'{"get-stream": null}\n', lines))


async def unread_rows(target: Target) -> None:
    """Forty clients that ask for a row of 8 MB, which any client may store, again and again and read nothing."""
    host = await create_async_client(target.tcp)
    await host.report_unihash("ab" * 32, METHOD, "cd" * 32, "ef" * 32, {"outhash_siginfo": "x" * 8_000_000})
    await host.close()
    asked = json.dumps({"get": {"method": METHOD, "taskhash": "ab" * 32, "all": True}}).encode() + b"\n"
    await crowd(target, 40, lambda at: _send(at, HELLO, asked * 20, rate=20_000))


async def unique_siginfo(target: Target) -> None:
    """Reports of 1 MB of siginfo each, all different."""
    await crowd(target, 4, lambda at: _report_for_ever(at, lambda mark: {"outhash_siginfo": mark * 16_384}))


async def unique_details(target: Target) -> None:
    """Reports whose recipe, version, task and owner have 60 KB each, all different."""
    names = ("owner", "PN", "PV", "PR", "task")
    await crowd(target, 4, lambda at: _report_for_ever(at, lambda mark: {name: name + mark * 900 for name in names}))


async def _report_for_ever(target: Target, details: Callable[[str], dict[str, str]]) -> None:
    async with await create_async_client(target.tcp) as client:
        while True:
            one = secrets.token_hex(32)
            await client.report_unihash(one, METHOD, one, one, details(one))


# ------------------------------------------------------------------------------------------------ connections


async def silent(target: Target) -> None:
    """Four thousand connections that say nothing, half a header, half an upgrade, or hello and no more."""
    host = target.ws.removeprefix("ws://")

    async def upgrade(_at: Target) -> None:
        reader, writer = await asyncio.open_connection(*host.rpartition(":")[::2])
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
            await _swallow(reader)
        finally:
            writer.transport.abort()

    kinds: tuple[Work, ...] = (
        lambda at: _send_once(at, b""),
        lambda at: _send_once(at, b"OEHASHEQUIV 1.1\nneeds-head"),
        lambda at: _send_once(at, HELLO),
        upgrade,
    )
    await asyncio.gather(*(crowd(target, 1000, kind) for kind in kinds))


async def restart(target: Target) -> None:
    """A thousand builders that connect at one time and ask 9000 lookups each, of which most are unknown."""
    lines = b"".join(b"%s %s\n" % (METHOD.encode(), secrets.token_hex(32).encode()) for _ in range(9000))
    answered = 0

    async def build(_number: int) -> None:
        nonlocal answered
        reader, writer = await target.open()
        writer.write(HELLO + b'{"get-stream": null}\n' + lines)
        for _ in range(9001):
            await reader.readuntil(b"\n")
        answered += 1
        writer.transport.abort()

    while True:
        await asyncio.gather(*map(build, target.some(1000)))


async def scanners(target: Target) -> None:
    """Bytes of other protocols, and resets in the midst of an upgrade."""
    port = int(target.ws.rpartition(":")[2].rstrip("/"))

    async def scan(_at: Target) -> None:
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\nHost: \xff\r\n\xfe\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            await writer.drain()
            writer.transport.abort()

    await crowd(target, 50, scan)


# ------------------------------------------------------------------------------------------------------ users


async def logins(target: Target) -> None:
    """Two hundred wrong logins of the administrator at one time."""
    asked = json.dumps({"auth": {"username": ADMIN, "token": "guess"}}).encode() + b"\n"
    await crowd(target, 200, lambda at: _send_once(at, HELLO + asked, 3.0))


async def vanishing_logins(target: Target) -> None:
    """Five hundred wrong logins at one time, whose clients leave at once."""
    asked = json.dumps({"auth": {"username": ADMIN, "token": "guess"}}).encode() + b"\n"
    await crowd(target, 500, lambda at: _send_once(at, HELLO + asked, 0.0))


async def refreshes(target: Target) -> None:
    """A user that takes a hundred and fifty new tokens at one time, and is made anew when it was deleted."""

    async def take(token: str) -> None:
        auth = json.dumps({"auth": {"username": BUILDER, "token": token}}).encode() + b"\n"
        await crowd(target, 150, lambda at: _send_once(at, HELLO + auth + b'{"refresh-token": {}}\n', 3.0))

    async def make(at: Target) -> None:
        async with await create_async_client(at.tcp, ADMIN, PASSWORD) as client:
            token = (await client.new_user(BUILDER, ["@read"]))["token"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await take(token)

    await again(target, make)


async def siginfos(target: Target) -> None:
    """Reports with siginfo of 100 KB, and of a method each."""

    async def report(at: Target) -> None:
        reader, writer = await at.open()
        try:
            writer.write(HELLO)
            while True:
                names = {name: secrets.token_hex(32) for name in ("method", "taskhash", "outhash", "unihash")}
                row = names | {"outhash_siginfo": "x" * 100_000}
                writer.write(encode_json(json.dumps({"report": row}).encode()))
                await reader.readuntil(b"\n")
        finally:
            writer.transport.abort()

    await crowd(target, 8, report)


ATTACKS: dict[str, tuple[Work, str]] = {
    work.__name__: (work, who)
    for work, who in (
        (pings, "no login"),
        (ping_flood, "no login"),
        (pieces, "no login"),
        (large_messages, "no login"),
        (unfinished, "no login"),
        (silent, "no login"),
        (scanners, "no login"),
        (logins, "no login"),
        (vanishing_logins, "no login"),
        (short_lines, "@read"),
        (huge_blocks, "@read"),
        (frames, "@read"),
        (exists_frames, "@read"),
        (huge_frames, "@read"),
        (odd_batches, "@read"),
        (unread_streams, "@read"),
        (restart, "@read"),
        (unread_rows, "@report"),
        (many_methods, "@report"),
        (checks_in_methods, "@report"),
        (siginfos, "@report"),
        (report_batches, "@report"),
        (unique_siginfo, "@report"),
        (unique_details, "@report"),
        (large_requests, "@report"),
        (removals, "@db-admin"),
        (removals_by_siginfo, "@db-admin"),
        (marks, "@db-admin"),
        (scanning_marks, "@db-admin"),
        (refreshes, "any user"),
    )
}
"""By name: the attack, and who may make it."""
