"""The least that a server of reports can do in Python: what `perf.least` measures shardhash beside.

    python -m perf.least_server PORT FILE always|interval

One process, uvloop, one dict. It knows one request, `report`, of clients that do it right; it takes no turns, counts
nothing, limits nothing, has no table, and forgets all at its end. It parses each line, remembers the unihash, appends
the line to a file, and answers once that is synced (always) or written (interval); whatever comes in during one fsync
shares the next. So whoever is faster reports in another language, or loses them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import orjson
import uvloop


class Log:
    """The file, and the connections whose answers wait for it."""

    def __init__(self, path: str, *, synced: bool) -> None:
        self.unihashes: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._synced = synced
        self._lines: list[bytes] = []
        self._answers: list[tuple[asyncio.Transport, dict[str, Any]]] = []
        self._under_way = False
        self._wanted = threading.Semaphore(0)
        threading.Thread(target=self._sync, daemon=True).start()

    def add(self, transport: asyncio.Transport, line: bytes) -> None:
        """A report, to be answered."""
        row = orjson.loads(line)["report"]
        self._lines.append(line)
        self._answers.append((transport, row))
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        answers, self._answers = self._answers, []
        os.write(self._file, b"".join(lines))
        if not self._synced:
            self._answer(answers)
            return
        self._asked = answers
        self._wanted.release()

    def _sync(self) -> None:
        while True:
            self._wanted.acquire()
            os.fdatasync(self._file)
            self._loop.call_soon_threadsafe(self._answer, self._asked)

    def _answer(self, answers: list[tuple[asyncio.Transport, dict[str, Any]]]) -> None:
        self._under_way = bool(self._lines)
        if self._under_way:
            self._loop.call_soon(self._write)
        for transport, row in answers:
            unihash = self.unihashes.setdefault(row["taskhash"], row["unihash"])
            answer = {"taskhash": row["taskhash"], "method": row["method"], "unihash": unihash}
            transport.write(orjson.dumps(answer) + b"\n")


class Connection(asyncio.Protocol):
    """One client: a greeting that ends with an empty line, then requests."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._part = b""
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            if self._greeted:
                self._log.add(self._transport, line + b"\n")
            else:
                self._greeted = not line


async def serve(port: int, path: str, sync: str) -> None:
    """Serve until it is killed."""
    log = Log(path, synced=sync == "always")
    server = await asyncio.get_running_loop().create_server(lambda: Connection(log), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
