"""A connection to one server that is made again when it breaks, with the same credentials, for one call at a time.

A call that fails because the connection broke is tried again on a new one, three times. A server that is silent for
`timeout` seconds is not asked again: it would cost the same time once more. After a call that could not connect, or ran
into a limit of time, the server is left alone for a while (breaker.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypedDict, TypeVar

from shardhash.client.breaker import Breaker
from shardhash.client.connect import describe_error, open_transport
from shardhash.client.connection import BLOCK, HEADERS_WITHIN, Connection
from shardhash.client.credentials import find_credentials
from shardhash.client.waiting import Waiting
from shardhash.errors import BreakerOpenError, InvokeError, ProtocolError, SilentHeadersError, WrongKindError
from shardhash.wire.address import Kind, parse_address

TIMEOUT = 30.0
"""Seconds without progress after which a connection counts as broken."""
RETRY_PAUSES = (0.0, 0.05, 0.2)
"""Seconds before each retry. Short, because a dead server is found dead once for every wave of a build."""
SILENCE_REMEMBERED = 600.0
"""Seconds for which a server that did not answer with headers is not asked for them again, by any client here."""

_OTHER_KIND: dict[Kind, Kind] = {"tcp": "ws", "tls": "wss", "ws": "tcp", "wss": "tls"}
"""What else may be at the same host and port."""

_T = TypeVar("_T")
_silent_until: dict[str, float] = {}
"""For the address of each server that did not answer with headers, the monotonic time until which it is not asked."""


class ClientOptions(TypedDict, total=False):
    """Options of every client; `create_async_client` says what they mean, `Reconnecting` has the defaults."""

    timeout: float
    native: bool
    block: int
    netrc_hosts: bool
    deadline: float | None
    breaker: Breaker | None


class Reconnecting:
    """See the module. `credentials`: (username, token) of each new connection; `become`: the user it then acts as."""

    def __init__(
        self,
        waiting: Waiting,
        address: str,
        username: str | None = None,
        password: str | None = None,
        *,
        timeout: float = TIMEOUT,
        native: bool = True,
        block: int = BLOCK,
        netrc_hosts: bool = False,
        deadline: float | None = None,
        breaker: Breaker | Literal["own"] | None = "own",
    ) -> None:
        self.address = parse_address(address)
        self.credentials: tuple[str, str] | None
        if username:
            self.credentials = (username, password or "")
        else:
            self.credentials = find_credentials(address, self.address, by_host=netrc_hosts)
        if self.credentials is not None and not self.address.encrypted and not self.address.local:
            _warn(
                "%s: the token of %s crosses the network unencrypted; use a wss:// or tls:// address",
                self.address,
                self.credentials[0],
            )
        self.become: str | None = None
        self._waiting = waiting
        self._timeout = timeout
        self._deadline = deadline
        self._breaker = breaker if breaker is None or isinstance(breaker, Breaker) else Breaker()
        self._native = native
        self._block = block
        self._connection: Connection | None = None
        self._connecting = False
        self._closed = False
        self._lock = waiting.lock()

    async def attempt(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """The outcome of `work` on a connection; on another one if it breaks, up to the number of retries.

        Raises ConnectionError, BreakerOpenError if the server is left alone, and what `work` raises else.
        """
        async with self._lock:
            self._check_breaker()
            limit = None if self._deadline is None else self._waiting.limit(self._deadline)
            try:
                if limit is None:
                    result = await self._attempt_often(work)
                else:
                    async with limit:
                        result = await self._attempt_often(work)
            except (OSError, ProtocolError) as error:
                late = limit is not None and limit.expired()
                why = f"no complete answer within {self._deadline:g} s" if late else self._describe(error)
                self._failed(error, why)
                raise ConnectionError(f"{self.address}: {why}") from error
            except InvokeError:
                self._worked()
                raise
            except BaseException:  # the caller has no more interest
                if self._breaker is not None:
                    self._breaker.gave_up()
                raise
            self._worked()
            return result

    async def _attempt_often(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        # Whether a server is back is tried once: the others wait for what comes of it.
        for pause in () if self._breaker is not None and self._breaker.open else RETRY_PAUSES:
            try:
                return await self._attempt_once(work)
            except TimeoutError:
                raise
            except (OSError, ProtocolError):
                await self._waiting.sleep(pause)
        return await self._attempt_once(work)

    async def _attempt_once(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._closed:
            raise RuntimeError("the client is closed")
        try:
            if self._connection is None:
                self._connecting = True
                self._connection = await self._open()
                self._connecting = False
            return await work(self._connection)
        except BaseException:
            # Answers to what was sent may be under way still; a new connection knows nothing of them.
            await self._drop()
            raise

    async def _open(self) -> Connection:
        native = self._native and _silent_until.get(str(self.address), 0.0) <= time.monotonic()
        try:
            return await self._open_once(native=native)
        except SilentHeadersError:
            self._waiting.check_limits()  # it may be the caller who had no more time
            _silent_until[str(self.address)] = time.monotonic() + SILENCE_REMEMBERED
            return await self._open_once(native=False)

    async def _open_once(self, *, native: bool) -> Connection:
        async with self._waiting.limit(self._timeout + (HEADERS_WITHIN if native else 0.0)):
            transport = await open_transport(self.address, self._timeout, self._waiting)
            try:
                connection = await Connection.open(transport, native=native, block=self._block)
                if self.credentials is not None:
                    username, token = self.credentials
                    await connection.invoke({"auth": {"username": username, "token": token}})
                if self.become is not None:
                    await connection.invoke({"become-user": {"username": self.become}})
            except BaseException:
                await transport.abort()
                raise
            return connection

    def _describe(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, WrongKindError) and self.address.kind in _OTHER_KIND:
            return f"{error}: try {self.address._replace(kind=_OTHER_KIND[self.address.kind], path='')}"
        return describe_error(error)

    # -- the breaker -----------------------------------------------------------------------------------------------

    def _check_breaker(self) -> None:
        if self._breaker is None:
            return
        try:
            self._breaker.check(trial=2 * self._timeout)
        except BreakerOpenError as error:
            text = f"{self.address}: {error}"
            if self._breaker.should_warn():
                _warn("%s; until then calls fail at once", text)
            raise BreakerOpenError(text) from None

    def _failed(self, error: Exception, why: str) -> None:
        """Leave the server alone, but not if it was there and only did not like what it was asked."""
        if self._breaker is not None and (isinstance(error, TimeoutError) or self._connecting or self._breaker.open):
            self._breaker.failed(why)

    def _worked(self) -> None:
        if self._breaker is not None:
            self._breaker.worked()

    async def close(self) -> None:
        """Say goodbye. The client is of no more use."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def disconnect(self) -> None:
        """Close the connection at once, whatever is under way; the next call makes a new one."""
        self._lock = self._waiting.lock()  # whoever holds the old one has lost the connection
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.abort()


def _warn(text: str, *values: object) -> None:
    import logging  # here, because it takes as long to import as a report to make

    logging.getLogger(__name__).warning(text, *values)
