"""A server whose answers a function gives, in a thread: native batches or streams, and an end in the middle."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.layer.builds import Answer

Guess = Callable[[str, str], "list[tuple[str, str | None]]"]


class FunctionServer:
    """Listens on `address` while in its context. `lives` is the number of answers after which it is gone for good."""

    def __init__(
        self, answer: Answer, *, native: bool = True, lives: int | None = None, guess: Guess | None = None
    ) -> None:
        self._answer = answer
        self._guess = guess
        """With it the server offers guesses, if it is native."""
        self._native = native
        self._lives = lives
        self.batches: list[int] = []
        """Questions in each native batch."""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        host, port = self._socket.getsockname()
        self.address = f"{host}:{port}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it ended by itself
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile(encoding="utf-8", newline="\n") as lines:
                try:
                    for line in lines:
                        answer = self._answer_line(line[:-1])
                        if answer is not None:
                            connection.sendall(answer.encode() + b"\n")
                except (ConnectionError, EOFError):
                    pass
            if self._lives is not None and self._lives <= 0:
                self._socket.close()
                return

    def _answer_line(self, line: str) -> str | None:
        if line.startswith(("OEHASHEQUIV", "needs-headers")):
            self._asked = line.endswith("true")
            return None
        if not line:
            offer = "shardhash-batch: 1\n" if self._native else ""
            offer += "shardhash-guess: 1\n" if self._native and self._guess else ""
            return offer if self._asked else None
        if line == "END":
            return "ok"
        if "stream" in line:
            return '"ok"'
        if self._lives is not None:
            self._lives -= 1
            if self._lives < 0:
                raise EOFError
        if not line.startswith("{"):
            method, taskhash = line.split()
            return self._answer(method, taskhash) or ""
        return self._answer_batch(json.loads(line))

    def _answer_batch(self, request: dict[str, Any]) -> str:
        if "guess" in request:
            assert self._guess is not None
            tasks = request["guess"]["tasks"]
            return json.dumps({"guesses": [self._guess(*task) for task in tasks], "complete": True})
        batch = request["get-batch"]
        self.batches.append(len(batch["taskhashes"]))
        return json.dumps({"unihashes": [self._answer(batch["method"], taskhash) for taskhash in batch["taskhashes"]]})
