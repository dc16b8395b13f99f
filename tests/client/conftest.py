"""Servers for the client's tests, and a home directory without credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.older_server import OlderServer


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a .netrc file that does not exist, and which the client reads."""
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    return path


@pytest.fixture(params=["tcp", "unix", "ws"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of address."""
    return str(request.param)


@pytest.fixture
def older() -> OlderServer:
    """A server with streams only."""
    return OlderServer()


@pytest.fixture
def native() -> OlderServer:
    """The same with native batches."""
    return OlderServer(native=True)


@pytest.fixture
async def older_address(older: OlderServer, kind: str, tmp_path: Path) -> AsyncIterator[str]:
    async with older.listen(kind, tmp_path) as address:
        yield address


@pytest.fixture
async def native_address(native: OlderServer, kind: str, tmp_path: Path) -> AsyncIterator[str]:
    async with native.listen(kind, tmp_path) as address:
        yield address
