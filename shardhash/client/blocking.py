"""The blocking twin of the client, for programs without an event loop: the same methods, with the same types.

A `Client` runs the coroutines of an `AsyncClient` in the thread that calls (in_thread.py), without an event loop, so
that no thread is left behind, nothing happens between calls, and neither asyncio nor aiohttp is imported. Calls from
several threads take turns. It cannot be used in a thread whose event loop is running (RuntimeError); use the
AsyncClient there.

Forks: a child may go on using the client. It gets a new connection of its own at its first call, and leaves the
parent's alone, whose socket it would otherwise share.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from shardhash.client.asynchronous import AsyncClient
from shardhash.client.in_thread import InThread
from shardhash.client.reconnecting import ClientOptions

_P = ParamSpec("_P")
_R = TypeVar("_R")


def create_client(
    address: str,
    username: str | None = None,
    password: str | None = None,
    **options: Unpack[ClientOptions],
) -> Client:
    """A connected client; see `create_async_client`, which takes the same and raises the same."""
    client = Client(address, username, password, **options)
    try:
        client.connect()
    except BaseException:
        client.close()
        raise
    return client


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[Client, _P], _R]:
    """The blocking form of a method, with its name, types and docstring."""

    @functools.wraps(method)
    def call(self: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._run(method, *args, **kwargs)

    return call


def _loop_is_running() -> bool:
    if "asyncio" not in sys.modules:
        return False
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Coroutines(AsyncClient):
    """An AsyncClient for a thread without an event loop."""

    def __init__(
        self, thread: InThread, address: str, username: str | None, password: str | None, options: ClientOptions
    ) -> None:
        self._thread = thread
        super().__init__(address, username, password, **options)

    def _new_waiting(self) -> InThread:
        return self._thread


class Client:
    """A client of one server, which connects at its first call. `create_client` makes one that is connected."""

    def __init__(
        self, address: str, username: str | None = None, password: str | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self._thread = InThread()
        self._client = _Coroutines(self._thread, address, username, password, options)
        self._lock = threading.Lock()
        self._closed = False
        _clients.add(self)

    def _run(
        self,
        method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _R]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if _loop_is_running():
                raise RuntimeError("an event loop is running in this thread; await the methods of an AsyncClient there")
            return self._thread.run(method(self._client, *args, **kwargs))

    def after_fork(self) -> None:
        """Called in a child by itself: close its side of the inherited connection, without a word to the server.

        The lock is new: the thread that held it is not in this process.
        """
        self._lock = threading.Lock()
        self._thread.run(self._client.disconnect())

    connect = _blocking(AsyncClient.connect)

    get_unihash = _blocking(AsyncClient.get_unihash)
    get_unihash_batch = _blocking(AsyncClient.get_unihash_batch)
    get_unihashes = _blocking(AsyncClient.get_unihashes)
    get_taskhash = _blocking(AsyncClient.get_taskhash)
    get_long_row = _blocking(AsyncClient.get_long_row)
    get_outhash = _blocking(AsyncClient.get_outhash)
    unihash_exists = _blocking(AsyncClient.unihash_exists)
    unihash_exists_batch = _blocking(AsyncClient.unihash_exists_batch)

    report_unihash = _blocking(AsyncClient.report_unihash)
    report_unihash_batch = _blocking(AsyncClient.report_unihash_batch)
    report_unihash_equiv = _blocking(AsyncClient.report_unihash_equiv)

    import_batch = _blocking(AsyncClient.import_batch)

    ping = _blocking(AsyncClient.ping)
    get_stats = _blocking(AsyncClient.get_stats)
    reset_stats = _blocking(AsyncClient.reset_stats)
    get_db_usage = _blocking(AsyncClient.get_db_usage)
    get_db_query_columns = _blocking(AsyncClient.get_db_query_columns)
    backfill_wait = _blocking(AsyncClient.backfill_wait)
    remove = _blocking(AsyncClient.remove)
    clean_unused = _blocking(AsyncClient.clean_unused)

    find = _blocking(AsyncClient.find)
    get_row = _blocking(AsyncClient.get_row)
    diverging = _blocking(AsyncClient.diverging)
    saved = _blocking(AsyncClient.saved)
    guess = _blocking(AsyncClient.guess)
    why = _blocking(AsyncClient.why)
    quarantine = _blocking(AsyncClient.quarantine)
    quarantines = _blocking(AsyncClient.quarantines)
    release = _blocking(AsyncClient.release)
    discard = _blocking(AsyncClient.discard)
    collect = _blocking(AsyncClient.collect)
    report_unihash_equiv_batch = _blocking(AsyncClient.report_unihash_equiv_batch)
    forwarding = _blocking(AsyncClient.forwarding)
    forward_refused = _blocking(AsyncClient.forward_refused)
    drop_refused = _blocking(AsyncClient.drop_refused)

    gc_mark = _blocking(AsyncClient.gc_mark)
    gc_mark_stream = _blocking(AsyncClient.gc_mark_stream)
    gc_status = _blocking(AsyncClient.gc_status)
    gc_sweep = _blocking(AsyncClient.gc_sweep)

    auth = _blocking(AsyncClient.auth)
    refresh_token = _blocking(AsyncClient.refresh_token)
    set_user_perms = _blocking(AsyncClient.set_user_perms)
    get_user = _blocking(AsyncClient.get_user)
    get_all_users = _blocking(AsyncClient.get_all_users)
    list_users = _blocking(AsyncClient.list_users)
    new_user = _blocking(AsyncClient.new_user)
    delete_user = _blocking(AsyncClient.delete_user)
    become_user = _blocking(AsyncClient.become_user)

    def close(self) -> None:
        """Say goodbye. The client is of no more use; closing twice is harmless."""
        if not self._closed:
            self._run(AsyncClient.close)
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in _clients:
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
