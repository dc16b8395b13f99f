"""The Store that is served: chosen here, from the settings, and nowhere else.

Worker processes, unless the settings name a database (`--store`); in front of either an upstream, if there is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from shardhash.base.text import counted
from shardhash.errors import ConfigError
from shardhash.link.worker_link import WorkerLink
from shardhash.server.first_writes import do_or_retry
from shardhash.server.followers import Followers
from shardhash.server.outbox import open_journals, warn_of_outbox
from shardhash.server.settings import Settings
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.stores.chained.store import ChainedStore, Misses
from shardhash.stores.chained.upstream import Upstream
from shardhash.stores.forwarding.forwarder import Forwarder
from shardhash.stores.interface import Store
from shardhash.stores.sharded.others import NONE
from shardhash.stores.sharded.router import Router

log = logging.getLogger(__name__)


class Workers:
    """The worker processes of a server without a database.

    `processes` run already, one a shard; `start` makes another. `recovered` is called, beside the event loop, once
    every shard has recovered, and before the first client.
    """

    def __init__(
        self,
        processes: Sequence[WorkerProcess],
        start: Callable[[int], WorkerProcess],
        recovered: Callable[[], None],
    ) -> None:
        self.processes = processes
        self.start = start
        self.recovered = recovered
        self.followers: Followers | None = None
        """The further coordinators of the same workers, if there are to be any; `open_store` makes them."""
        self.router: Router | None = None


async def open_store(
    settings: Settings, workers: Workers, tell_progress: Callable[[str], None], running: AsyncExitStack
) -> Store:
    """The Store of a server, which `running` closes. Raises ConfigError when a shard or the database cannot be had."""
    if settings.store is not None:
        store = await _open_database(settings.store, settings, running)
    else:
        store = await _open_workers(settings, workers, tell_progress, running)
    if not settings.forward and settings.data is not None:
        await asyncio.to_thread(warn_of_outbox, OsFileSystem(), settings.data)
    if settings.upstream is None:
        return store
    upstream = Upstream(settings.upstream)
    forwarder = await _open_outbox(settings, settings.upstream, upstream) if settings.upstream.forward else None
    chained = ChainedStore(store, upstream, Misses(settings.upstream.remember_misses), forwarder)
    chained.start()
    running.push_async_callback(chained.close)
    return chained


async def _open_outbox(settings: Settings, told: UpstreamSettings, upstream: Upstream) -> Forwarder:
    journals = await asyncio.to_thread(open_journals, OsFileSystem(), settings.data)
    upstream.pools.waiting = ", reports wait in the outbox"
    forwarder = Forwarder(
        upstream.pools, journals, told.outbox_size, sync=settings.sync, sync_interval=settings.sync_interval
    )
    health = forwarder.health()
    if health.waiting or health.refused:
        waiting = counted(health.waiting, "report waits", "reports wait")
        log.info("%s for the upstream; kept apart, since it refused them: %d", waiting, health.refused)
    return forwarder


async def _open_workers(
    settings: Settings, workers: Workers, tell_progress: Callable[[str], None], running: AsyncExitStack
) -> Store:
    links = [WorkerLink(shard, settings.shard_timeout) for shard in range(settings.workers)]
    durable, limit = settings.data is not None, settings.shard_timeout
    supervisor = Supervisor(links, workers.processes, workers.start, durable=durable, limit=limit, tell=tell_progress)
    if settings.coordinators > 1:
        workers.followers = Followers(settings, supervisor, links)
    running.push_async_callback(supervisor.stop)
    await supervisor.start()
    await asyncio.to_thread(workers.recovered)
    router = workers.router = Router(links, settings.answer_cache, workers.followers or NONE)
    running.push_async_callback(router.close)
    await do_or_retry("the current mark", router.reconcile, running)
    return router


async def _open_database(url: str, settings: Settings, running: AsyncExitStack) -> Store:
    try:
        from shardhash.stores.postgresql.store import PostgresqlStore  # an optional extra
    except ImportError:
        raise ConfigError("--store needs psycopg 3: pip install 'shardhash[postgresql]'") from None
    store = PostgresqlStore(
        url, settings.shard_timeout, settings.answer_cache, settings.answer_lease, settings.read_replica
    )
    running.push_async_callback(store.close)
    await store.open()
    return store
