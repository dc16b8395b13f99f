"""The blocking client that BitBake's signature code uses in place of hashserv's: the same methods.

It connects at its first call, so that making one never fails and costs nothing. A forked child gets a connection of its
own at its first call, and leaves the parent's alone. Refusals of the server are InvokeError; everything else that goes
wrong is a ConnectionError. A connection that breaks is replaced once; then the breaker opens, and calls fail at once.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, TypeVar

from shardhash_bitbake.address import parse_address
from shardhash_bitbake.breaker import Breaker
from shardhash_bitbake.channel import open_channel
from shardhash_bitbake.connection import Connection, Pair
from shardhash_bitbake.errors import InvokeError, ProtocolError, SilentHeadersError

TIMEOUT = 5.0
"""Seconds without a byte from the server after which a call gives up."""
REPORTS_AT_ONCE = 64

_R = TypeVar("_R")


class Figures:
    """What a client has done so far."""

    def __init__(self) -> None:
        self.calls = 0
        self.questions = 0
        self.guesses = 0
        self.seconds = 0.0


class Client:
    """A client of the server at an address. Raises ValueError at once for what is no address."""

    def __init__(
        self,
        address: str,
        username: str | None = None,
        password: str | None = None,
        *,
        timeout: float = TIMEOUT,
        breaker: Breaker | None = None,
    ) -> None:
        self._address = parse_address(address)
        self._login = (username, password) if username and password else None
        self._timeout = timeout
        self._breaker = breaker or Breaker()
        self._connection: Connection | None = None
        self._pid = os.getpid()
        self._silent = False
        self.figures = Figures()

    # -- what builds ask -----------------------------------------------------------------------------------------

    def get_unihash(self, method: str, taskhash: str) -> str | None:
        """The unihash of a taskhash, or None."""
        return self.get_unihash_batch([(method, taskhash)])[0]

    def get_unihash_batch(self, args: Iterable[Pair]) -> list[str | None]:
        """The unihash of each (method, taskhash), or None, in their order."""
        pairs = list(args)
        return self._ask(len(pairs), lambda connection: connection.get(pairs)) if pairs else []

    def unihash_exists(self, unihash: str) -> bool:
        """Whether some task has this unihash."""
        return self.unihash_exists_batch([unihash])[0]

    def unihash_exists_batch(self, unihashes: Iterable[str]) -> list[bool]:
        """Whether some task has each of these unihashes."""
        texts = list(unihashes)
        return self._ask(len(texts), lambda connection: connection.exists(texts)) if texts else []

    def report_unihash(
        self, taskhash: str, method: str, outhash: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> Any:
        """Report a task's output; the answer's ``unihash`` is the one in force."""
        return self.report_batch([report_fields(taskhash, method, outhash, unihash, extra)])[0]

    def report_batch(self, reports: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Send several reports, and return the answers. Repeating them does no harm."""
        answers: list[Any] = []
        for at in range(0, len(reports), REPORTS_AT_ONCE):
            answers += self._report([{"report": dict(report)} for report in reports[at : at + REPORTS_AT_ONCE]])
        return answers

    def _report(self, requests: Sequence[object]) -> list[Any]:
        return self._call(lambda connection: _unihashes_in(connection.invoke_all(requests)))

    def report_unihash_equiv(
        self, taskhash: str, method: str, unihash: str, extra: Mapping[str, Any] | None = None
    ) -> Any:
        """Report that a taskhash has this unihash, unless it has one; the answer's ``unihash`` is the one in force."""
        fields = {**(extra or {}), "taskhash": taskhash, "method": method, "unihash": unihash}
        return self.invoke({"report-equiv": fields})

    def get_taskhash(self, method: str, taskhash: str, all_properties: bool = False) -> Any:
        """The mapping of a taskhash, or its oldest row, or None."""
        return self.invoke({"get": {"taskhash": taskhash, "method": method, "all": all_properties}})

    def get_outhash(self, method: str, outhash: str, taskhash: str, with_unihash: bool = True) -> Any:
        """The oldest row of an outhash, or None."""
        fields = {"outhash": outhash, "taskhash": taskhash, "method": method, "with_unihash": with_unihash}
        return self.invoke({"get-outhash": fields})

    def ping(self) -> Any:
        """``{"alive": True}``."""
        return self.invoke({"ping": {}})

    def invoke(self, request: object) -> Any:
        """The answer to any command that does not change the mode of the connection."""
        return self._call(lambda connection: connection.invoke(request))

    def begin(self, tasks: Sequence[tuple[str, str, str]]) -> list[tuple[list[Pair], bool]]:
        """Connect, ready for questions, and have tasks guessed. The caller does something else: no time is counted."""
        seconds = self.figures.seconds
        try:
            self._call(lambda _: None, ask_headers=True)
            self.figures.calls -= 1
            return self.get_guesses(tasks) if tasks else []
        finally:
            self.figures.seconds = seconds

    def get_guesses(self, tasks: Sequence[tuple[str, str, str]]) -> list[tuple[list[Pair], bool]]:
        """For each (method, PN, task) the (taskhash, unihash) of its last reports, and whether there were no others.

        Nothing from a server that does not offer it.
        """
        self.figures.guesses += len(tasks)
        return self._call(lambda connection: _guess(connection, tasks), ask_headers=True)

    # -- connections and failures ----------------------------------------------------------------------------------

    def _ask(self, count: int, work: Callable[[Connection], _R]) -> _R:
        self.figures.questions += count
        return self._call(work, ask_headers=True)

    def _call(self, work: Callable[[Connection], _R], *, ask_headers: bool = False) -> _R:
        """What a piece of work returns; it is done once more on a new connection if the first one breaks."""
        self.figures.calls += 1
        began = time.monotonic()
        try:
            self._breaker.check(2 * self._timeout)
            result = self._try(work, ask_headers)
        except InvokeError:
            self._abandon()
            self._breaker.worked()
            raise
        except OSError as error:
            raise self._explain(error) from error
        except BaseException:
            self._abandon()
            raise
        finally:
            self.figures.seconds += time.monotonic() - began
        self._breaker.worked()
        return result

    def _try(self, work: Callable[[Connection], _R], ask_headers: bool) -> _R:
        for last in (False, True):
            try:
                connection = self._connect(ask_headers)
            except OSError:
                self._breaker.failed()
                raise
            try:
                return work(connection)
            except OSError as error:
                self._abandon()
                if last or isinstance(error, (TimeoutError, ProtocolError)):
                    self._breaker.failed()
                    raise
        raise AssertionError  # the second round returns or raises

    def _connect(self, ask_headers: bool) -> Connection:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._abandon()
        ask_headers = ask_headers and not self._silent
        if self._connection is not None and ask_headers and not self._connection.asked_headers:
            self.close()
        if self._connection is None:
            try:
                self._connection = self._open(ask_headers)
            except SilentHeadersError:
                self._silent = True
                self._connection = self._open(False)
        return self._connection

    def _open(self, ask_headers: bool) -> Connection:
        channel = open_channel(self._address, self._timeout)
        try:
            connection = Connection(channel, ask_headers=ask_headers)
            if self._login:
                username, token = self._login
                connection.invoke({"auth": {"username": username, "token": token}})
        except BaseException:
            channel.abandon()
            raise
        return connection

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def _explain(self, error: OSError) -> ConnectionError:
        number = 0 if isinstance(error, ssl.SSLError) else error.errno or 0
        reason = os.strerror(number).lower() if number > 0 else str(error)
        # The class tells an open breaker from a failure.
        kind = type(error) if isinstance(error, ConnectionError) and error.errno is None else ConnectionError
        return kind(f"cannot ask {self._address.text}: {reason or type(error).__name__}")

    def close(self) -> None:
        """Say goodbye. The client connects again at its next call."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            connection.abandon()

    disconnect = close

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def report_fields(
    taskhash: str, method: str, outhash: str, unihash: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a report."""
    return {**(extra or {}), "taskhash": taskhash, "method": method, "outhash": outhash, "unihash": unihash}


def _guess(connection: Connection, tasks: Sequence[tuple[str, str, str]]) -> list[tuple[list[Pair], bool]]:
    found: list[tuple[list[Pair], bool]] = [([], False)] * len(tasks)
    for method in dict.fromkeys(method for method, _, _ in tasks):
        places = [place for place, task in enumerate(tasks) if task[0] == method]
        for place, variants in zip(places, connection.guess(method, [tasks[place][1:] for place in places])):
            found[place] = variants
    return found


def _unihashes_in(answers: list[Any]) -> list[Any]:
    """The answers to reports. Raises ProtocolError for one without a unihash."""
    for answer in answers:
        if not isinstance(answer, dict) or not isinstance(answer.get("unihash"), str):
            raise ProtocolError(f"the server answered a report by {str(answer)[:80]!r}, without a unihash")
    return answers
