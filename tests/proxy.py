"""A TCP proxy in front of a server that delays, holds, cuts off or changes what passes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Proxy:
    """Listens on `address` while in its context. Faults are set at any time, and act from then on.

    `delay`: seconds that bytes take each way, without slowing down those behind. `answers`: what becomes of each piece
    of bytes from the server; None cuts the connection. `connections` counts those made, `asked` the bytes that the
    server was sent, `pieces` how often some came: what is sent together is one.
    """

    def __init__(self, target: str, delay: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.delay = delay
        self.answers: Callable[[bytes], bytes | None] = bytes
        self.connections = 0
        self.asked = 0
        self.pieces = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stall(self) -> None:
        """Let nothing through, and say nothing."""
        self._flowing.clear()

    def cut(self) -> None:
        """End all connections, and each new one at once."""
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def heal(self) -> None:
        """Work again, without any fault."""
        self._refusing = False
        self.answers = bytes
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        if self._refusing:
            writer.transport.abort()
            server_writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        for source, sink, answers in ((reader, server_writer, False), (server_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(1 << 16):
                await self._flowing.wait()
                changed = self.answers(data) if answers else data
                if changed is None:
                    break
                if not answers:
                    self.asked += len(data)
                    self.pieces += 1
                # Timers of the same delay fire in order.
                loop.call_later(self.delay, sink.write, changed) if self.delay else sink.write(changed)
        except ConnectionError:
            pass
        loop.call_later(self.delay, sink.transport.abort if self._refusing else sink.close)
