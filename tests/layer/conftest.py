"""Servers for the layer's tests: real ones, older ones, and one that says what it is told to say."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.client.older_server import OlderServer
from tests.servers import IN_MEMORY, ServerProcess

Script = Sequence[bytes | None]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in memory for all tests; each has methods or hashes of its own. Addresses are tcp, unix, ws."""
    path = tmp_path_factory.mktemp("socket") / "server.sock"
    with ServerProcess(*IN_MEMORY, binds=["127.0.0.1:0", f"unix://{path}", "ws://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture(params=["tcp", "unix", "ws"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of address."""
    return str(request.param)


@pytest.fixture
def address(shared_server: ServerProcess, kind: str) -> str:
    """An address of the shared server, of each kind."""
    return shared_server.addresses[["tcp", "unix", "ws"].index(kind)]


@pytest.fixture
def older() -> OlderServer:
    """A server with streams only."""
    return OlderServer()


@pytest.fixture
async def older_address(older: OlderServer, kind: str, tmp_path: Path) -> AsyncIterator[str]:
    async with older.listen(kind, tmp_path) as address:
        yield address


@contextmanager
def listen(serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[str]:
    """Serve each connection, in a thread that ends with it; the HOST:PORT of the server."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection)
                    except OSError:
                        pass

        thread = threading.Thread(target=accept)
        thread.start()
        host, port = server.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Starts a server that answers each piece of bytes it gets by the next one it was given; None says nothing.

    Each connection begins anew. It closes when all is said, unless the last piece is None.
    """

    def start(*script: bytes | None) -> str:
        def serve(connection: socket.socket) -> None:
            for piece in script:
                if not connection.recv(1 << 20):
                    return
                if piece is not None:
                    connection.sendall(piece)
            if script and script[-1] is None:
                while connection.recv(1 << 20):
                    pass

        return stack.enter_context(listen(serve))

    with ExitStack() as stack:
        yield start


@pytest.fixture
def dead_address() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    return f"{host}:{port}"
