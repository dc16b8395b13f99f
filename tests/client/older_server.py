"""A small, honest server for the client's tests: dictionaries behind the line protocol, streams and no headers.

It stands for an older server: one that knows no native batches unless `native` is set, and no batches of reports unless
`reports` is. It keeps what each connection sent, and hangs up on demand after a number of answers, which is how retries
are tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from shardhash.wire.batch import EXISTS, OFFER, REPORTS_OFFER, Batch, Found, decode_request, encode_exists, encode_found
from shardhash.wire.framing import ChunkAssembler, encode_json

Received = str | bytes
Receive = Callable[[], Awaitable[Received]]
Send = Callable[[Received], Awaitable[None]]


class HangUpError(Exception):
    """The connection ends here."""


class OlderServer:
    def __init__(self, *, native: bool = False, reports: bool = False) -> None:
        self.native = native
        self.reports = reports
        self.tells_headers = True
        """Servers before BitBake 2.8 do not: they never answer ``needs-headers: true``."""
        self.mappings: dict[tuple[str, str], str] = {}
        self.tokens = {"builder": "secret"}
        self.marks: list[Any] = []
        self.heard: list[list[Received]] = []
        """What each connection sent after its handshake."""
        self.hears = asyncio.Event()
        """Set when the first of it has come."""
        self.headers: list[list[str]] = []
        self.hang_ups: deque[int | None] = deque()
        """For each connection to come: the number of answers after which the server hangs up; None for never."""
        self.silent = asyncio.Event()
        """While it is set nothing is answered."""
        self.answer_override: dict[str, str] = {}
        """Command or stream line to the text that answers it, for a server that lies."""

    # -- a connection ------------------------------------------------------------------------------------------------

    async def serve(self, receive: Receive, send: Send) -> None:
        """One connection from its first line to its end."""
        heard: list[Received] = []
        self.heard.append(heard)
        left = self.hang_ups.popleft() if self.hang_ups else None

        async def answer(text: Received) -> None:
            nonlocal left
            if left == 0:
                raise HangUpError
            if left is not None:
                left -= 1
            if self.silent.is_set():
                await asyncio.Event().wait()
            await send(text)

        with contextlib.suppress(HangUpError, ConnectionError, asyncio.IncompleteReadError):
            offered = await self._handshake(receive, send)
            while True:
                message = await receive()
                heard.append(message)
                self.hears.set()
                if isinstance(message, bytes):
                    await answer(self._batch(decode_request(message)))
                else:
                    request = json.loads(message)
                    if {"get-batch", "exists-batch"} & {*request} and not offered:
                        raise HangUpError
                    await self._command(request, heard, receive, answer)

    async def _handshake(self, receive: Receive, send: Send) -> bool:
        if await receive() != "OEHASHEQUIV 1.1":
            raise HangUpError
        headers = [line async for line in self._lines_until("", receive)]
        self.headers.append(headers)
        asked = "needs-headers: true" in headers and self.tells_headers
        if asked and self.native:
            await send(": ".join(OFFER))
        if asked and self.reports:
            await send(": ".join(REPORTS_OFFER))
        if asked:
            await send("")
        return asked and self.native

    @staticmethod
    async def _lines_until(end: str, receive: Receive) -> AsyncIterator[str]:
        while (line := await receive()) != end:
            assert isinstance(line, str)
            yield line

    async def _command(self, request: dict[str, Any], heard: list[Received], receive: Receive, answer: Send) -> None:
        ((name, fields),) = request.items()
        if name in self.answer_override:
            await answer(self.answer_override[name])
        elif name.endswith("-stream"):
            await answer('"ok"')
            async for line in self._lines_until("END", receive):
                heard.append(line)
                await answer(self.answer_override.get(line) or self._stream_line(name, line))
            heard.append("END")
            await answer("ok")
        else:
            await self._answer_command(name, fields, answer)

    def _stream_line(self, name: str, line: str) -> str:
        if name == "get-stream":
            method, taskhash = line.split()
            return self.mappings.get((method, taskhash), "")
        if name == "exists-stream":
            return "true" if line in self.mappings.values() else "false"
        self.marks.append(json.loads(line))
        return '{"count": 2}'

    async def _answer_command(self, name: str, fields: Any, answer: Send) -> None:
        handler = getattr(self, "do_" + name.replace("-", "_"), None)
        if handler is None:
            raise HangUpError
        try:
            value = handler(**(fields or {}))
        except LookupError as error:
            await answer(json.dumps({"invoke-error": {"message": error.args[0]}}))
            raise HangUpError from None
        await answer(json.dumps(value))

    # -- commands ----------------------------------------------------------------------------------------------------

    def do_ping(self) -> Any:
        return {"alive": True}

    def do_report(self, method: str, taskhash: str, outhash: str, unihash: str, **extra: Any) -> Any:
        unihash = self.mappings.setdefault((method, taskhash), unihash)
        return {"method": method, "taskhash": taskhash, "unihash": unihash}

    def do_report_batch(self, reports: list[dict[str, str]]) -> Any:
        return {"unihashes": [self.do_report(**report)["unihash"] for report in reports]}

    def do_get(self, method: str, taskhash: str, all: bool = False) -> Any:  # noqa: A002  # the protocol's name
        unihash = self.mappings.get((method, taskhash))
        return unihash and {"method": method, "taskhash": taskhash, "unihash": unihash}

    def do_auth(self, username: str, token: str) -> Any:
        if self.tokens.get(username) != token:
            raise LookupError(f"Unable to authenticate as {username}")
        return {"result": True, "username": username, "permissions": ["@all"]}

    def do_become_user(self, username: str) -> Any:
        return {"username": username, "permissions": []}

    def do_refresh_token(self, username: str = "builder") -> Any:
        self.tokens[username] += "+"
        return {"username": username, "token": self.tokens[username]}

    def do_get_batch(self, method: str, taskhashes: list[str]) -> Any:
        return {"unihashes": [self.mappings.get((method, taskhash)) for taskhash in taskhashes]}

    def do_exists_batch(self, unihashes: list[str]) -> Any:
        return {"exists": [unihash in self.mappings.values() for unihash in unihashes]}

    def _batch(self, batch: Batch) -> bytes:
        hashes = [batch.digests[at : at + 32].hex() for at in range(0, len(batch.digests), 32)]
        if batch.op == EXISTS:
            return encode_exists(bytes(unihash in self.mappings.values() for unihash in hashes))
        unihashes = [self.mappings.get((batch.method, taskhash)) for taskhash in hashes]
        return encode_found(Found.of([unihash and bytes.fromhex(unihash) for unihash in unihashes]))  # type: ignore[misc]

    # -- listening ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def listen(self, kind: str, directory: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Serve on a fresh address of a kind (tcp, unix, ws) and give that address."""
        if kind == "ws":
            async with self._listen_ws(tls) as address:
                yield address
            return
        if kind == "unix":
            path = directory / "server.sock"
            server = await asyncio.start_unix_server(self._serve_lines, path)
            address = f"unix://{path}"
        else:
            server = await asyncio.start_server(self._serve_lines, "127.0.0.1", 0)
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._tasks: set[asyncio.Task[Any]] = set()
        try:
            yield address
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        async def read_line() -> bytes:
            return (await reader.readuntil(b"\n"))[:-1]

        async def receive() -> Received:
            line = await read_line()
            if line == b'{"chunk-stream": null}':
                assembler = ChunkAssembler(1 << 30)
                while (message := assembler.feed(await read_line())) is None:
                    pass
                line = message
            return line.decode()

        async def send(text: Received) -> None:
            assert isinstance(text, str)
            writer.write(encode_json(text.encode()))
            await writer.drain()

        try:
            await self.serve(receive, send)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def _listen_ws(self, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve_ws)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
        finally:
            await runner.cleanup()

    async def _serve_ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)

        async def receive() -> Received:
            message = await socket.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                raise HangUpError
            data: Received = message.data
            return data

        async def send(text: Received) -> None:
            if isinstance(text, str):
                await socket.send_str(text)
            else:
                await socket.send_bytes(text)

        await self.serve(receive, send)
        await socket.close()
        return socket
