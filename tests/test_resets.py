"""Resets at any point of an upgrade or a handshake, at a real server: a line in the log at most, and nothing stays."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from shardhash.client import create_async_client
from tests.certificates import Authority
from tests.resets import LOGIN, say, scans
from tests.servers import IN_MEMORY, ServerProcess

LIMIT = 30.0
EACH = 8
LINES = 5
"""Lines a second that scanners may cause."""
BINDS = ("127.0.0.1:0", "ws://127.0.0.1:0", "tls://127.0.0.1:0", "wss://127.0.0.1:0")


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


async def test_scanners_that_reset_leave_a_line_at_most(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path / "authority", "authority").sign("localhost")
    arguments = ("--tls-cert", str(certificate), "--tls-key", str(key), "--limit", f"log_lines={LINES}")
    server = start_server(*IN_MEMORY, *arguments, binds=BINDS)
    ports = [port_of(address) for address in server.addresses]
    process = psutil.Process(server.process.pid)
    digest = secrets.token_hex(32)
    async with await create_async_client(server.addresses[1]) as builder:
        await builder.report_unihash(digest, "m", digest, digest)
        before = process.num_fds()
        for scan in scans(*ports):
            await asyncio.gather(*(asyncio.to_thread(scan) for _ in range(EACH)))
            assert await builder.get_unihash("m", digest) == digest
        async with asyncio.timeout(LIMIT):
            while process.num_fds() > before:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.02)
        assert await builder.get_unihash("m", secrets.token_hex(32)) is None
    await asyncio.to_thread(_stop_in_a_rush, server, ports[0])
    said = server.log.read()
    assert "Traceback" not in said
    assert " ERROR " not in said
    about_peers = [line for line in said.splitlines() if re.search(r" INFO .*: 127\.0\.0\.1:\d+: | no HTTP", line)]
    assert about_peers, "scanners are told of"
    assert max(Counter(line[:19] for line in about_peers).values()) <= 2 * LINES, (
        "of one second of the server's clock, or two"
    )


def _stop_in_a_rush(server: ServerProcess, port: int) -> None:
    """Stop while connections come in."""
    over = threading.Event()

    def rush() -> None:
        while not over.is_set():
            with suppress(OSError):
                say(port, LOGIN)

    rushing = [threading.Thread(target=rush) for _ in range(4)]
    for thread in rushing:
        thread.start()
    try:
        assert server.stop() == 0
    finally:
        over.set()
        for thread in rushing:
            thread.join()
