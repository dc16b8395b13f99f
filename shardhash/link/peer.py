"""Peers: two processes of one server that ask each other things, over a pair of sockets that nobody else has.

A message is its length, u32 little-endian, and a pickle of one of::

    (number, "ask", name, arguments)    do this, and say how it went
    (number, "answer", result)
    (number, "refusal", kind, text)     an error of errors.py
    (number, "leave")                   nobody waits for this any more

Numbers are those of who asks. What was asked first begins first.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeAlias

from shardhash.errors import InternalError, InvokeError, ShardhashError, StorageError, UnavailableError

log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[..., Awaitable[Any]]
"""Does what is asked: a name, and its arguments."""

_LENGTH = struct.Struct("<I")
_KINDS: dict[str, type[ShardhashError]] = {
    kind.__name__: kind for kind in (InvokeError, StorageError, UnavailableError, InternalError)
}


class Peer:
    """The other process. Make it with `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, what: str) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._what = what
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._ended = False

    @classmethod
    async def open(cls, raw: socket.socket, answer: Answer, what: str) -> Peer:
        """A peer at the other end of a socket. `answer` does what it asks; `what` is its name in errors."""
        reader, writer = await asyncio.open_connection(sock=raw)
        return cls(reader, writer, answer, what)

    async def run(self) -> None:
        """Read what the peer says until it ends. Whoever leaves this closes the connection."""
        try:
            while True:
                length = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))[0]
                self._receive(*pickle.loads(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._ended = True
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(UnavailableError(f"{self._what} ended; ask again"))
            for task in self._asked.values():
                task.cancel()
            if self._asked:
                await asyncio.wait(list(self._asked.values()))

    async def ask(self, name: str, *arguments: Any) -> Any:
        """What the peer answers. Raises what it raised, and UnavailableError when it ended. One who leaves says so."""
        if self._ended:
            raise UnavailableError(f"{self._what} ended; ask again")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send(number, "ask", name, arguments)
        try:
            return await future
        except asyncio.CancelledError:
            self._send(number, "leave")
            raise
        finally:
            self._waiting.pop(number, None)

    def _send(self, *message: Any) -> None:
        if not self._ended:
            packed = pickle.dumps(message)
            self._writer.write(_LENGTH.pack(len(packed)) + packed)

    def _receive(self, number: int, kind: str, *rest: Any) -> None:
        if kind == "ask":
            task = asyncio.get_running_loop().create_task(self._carry_out(number, *rest))
            self._asked[number] = task
            task.add_done_callback(lambda _: self._asked.pop(number, None))
        elif kind == "leave":
            if (asked := self._asked.get(number)) is not None:
                asked.cancel()
        elif (future := self._waiting.get(number)) is not None and not future.done():
            if kind == "answer":
                future.set_result(rest[0])
            else:
                future.set_exception(_KINDS[rest[0]](rest[1]))

    async def _carry_out(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._send(number, "answer", await self._answer(name, *arguments))
        except asyncio.CancelledError:
            raise
        except ShardhashError as error:
            known = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS), "InternalError")
            self._send(number, "refusal", known, str(error))
        except Exception as bug:
            log.exception("internal error in %s; this is a bug", name)
            self._send(number, "refusal", "InternalError", f"internal error in {name}: {bug!r}; this is a bug")
