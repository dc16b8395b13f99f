"""Fixtures for all tests: real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import IN_MEMORY, ServerProcess
from tests.stores.postgresql_server import PostgresqlServer, find_postgresql


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers, with the arguments of `ServerProcess`; they are stopped after the test, in order."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(ServerProcess(*arguments, **options))


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], tmp_path: Path) -> ServerProcess:
    """A server in memory with two workers; its addresses are tcp, unix and ws, in this order."""
    return start_server(*IN_MEMORY, binds=["127.0.0.1:0", f"unix://{tmp_path}/server.sock", "ws://127.0.0.1:0"])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for all tests, whose databases are their own."""
    if find_postgresql() is None:
        pytest.skip("there is no PostgreSQL here: apt-get install postgresql")
    with PostgresqlServer() as server:
        yield server
