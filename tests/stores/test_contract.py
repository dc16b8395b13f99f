"""The contract of stores, held against each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardhash.link.worker_link import WorkerLink
from shardhash.server.outbox import open_journals
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.manifest import make_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.stores.chained.store import ChainedStore, Misses
from shardhash.stores.chained.upstream import Upstream
from shardhash.stores.forwarding.forwarder import Forwarder
from shardhash.stores.postgresql.schema import migrate
from shardhash.stores.postgresql.store import PostgresqlStore
from shardhash.stores.sharded.router import Router
from shardhash.wire.address import parse_address
from tests.servers import IN_MEMORY, ServerProcess, free_port
from tests.store_contract import StoreContract
from tests.stores.dict_store import DictStore
from tests.stores.postgresql_server import PostgresqlServer

LIMIT = 30.0
SHARDS = 3


@pytest.fixture(scope="module")
def upstream_server() -> Iterator[ServerProcess]:
    with ServerProcess(*IN_MEMORY, binds=["ws://127.0.0.1:0"]) as process:
        yield process


@asynccontextmanager
async def sharded(arguments: Sequence[str]) -> AsyncIterator[Router]:
    """The Store over real worker processes."""

    def start(shard: int) -> WorkerProcess:
        return WorkerProcess(shard, ["--shards", str(SHARDS), *arguments])

    links = [WorkerLink(shard, LIMIT) for shard in range(SHARDS)]
    supervisor = Supervisor(links, [start(shard) for shard in range(SHARDS)], start, durable=bool(arguments))
    try:
        await supervisor.start()
        router = Router(links)
        await router.reconcile()
        yield router
    finally:
        await supervisor.stop()


class TestPlainStore(StoreContract):
    """The Store that other tests use as a model."""

    @pytest.fixture
    def store(self) -> DictStore:
        return DictStore()


class TestStoreInMemory(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Router]:
        async with sharded(()) as router:
            yield router


class TestDurableStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Router]:
        fs = OsFileSystem()
        make_directory(fs, tmp_path / "data")
        manifest = prepare_directory(fs, tmp_path / "data", SHARDS, lambda _: None)
        arguments = ["--data", str(tmp_path / "data"), "--generation", str(manifest.generation)]
        async with sharded(arguments) as router:
            yield router


class TestChainedStore(StoreContract):
    """In front of an upstream that knows nothing."""

    @pytest.fixture
    async def store(self, upstream_server: ServerProcess) -> AsyncIterator[ChainedStore]:
        settings = UpstreamSettings(parse_address(upstream_server.address), limit=LIMIT)
        async with sharded(()) as router:
            store = ChainedStore(router, Upstream(settings), Misses(settings.remember_misses))
            store.start()
            yield store
            await store.close()


class TestForwardingStore(StoreContract):
    """In front of an upstream that is away, so that all reports wait."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ChainedStore]:
        settings = UpstreamSettings(parse_address(f"127.0.0.1:{free_port()}"), limit=LIMIT, forward=True)
        upstream = Upstream(settings)
        forwarder = Forwarder(upstream.pools, open_journals(OsFileSystem(), tmp_path), settings.outbox_size)
        async with sharded(()) as router:
            store = ChainedStore(router, upstream, Misses(settings.remember_misses), forwarder)
            store.start()
            yield store
            await store.close()


class TestPostgresqlStore(StoreContract):
    @pytest.fixture
    async def store(self, postgresql: PostgresqlServer) -> AsyncIterator[PostgresqlStore]:
        url = postgresql.create_database()
        await migrate(url)
        store = PostgresqlStore(url, LIMIT)
        await store.open()
        yield store
        await store.close()
