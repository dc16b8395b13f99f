"""Serving: workers, Store, users and listeners put together, until a signal; then taken down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from shardhash.base.malloc import give_back
from shardhash.coordinator.handlers import Services
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.users import Users
from shardhash.errors import ShardhashError
from shardhash.link.worker_link import WorkerLink
from shardhash.server.settings import Settings
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess
from shardhash.stores.chained.store import ChainedStore, Misses
from shardhash.stores.chained.upstream import Upstream
from shardhash.stores.sharded.router import Router

log = logging.getLogger(__name__)


async def serve(settings: Settings, processes: Sequence[WorkerProcess], start: Callable[[int], WorkerProcess]) -> None:
    """Serve until SIGTERM or SIGINT. `processes` run already, one a shard; `start` makes another.

    Raises ConfigError when a shard or an address cannot be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    wanted = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, wanted.set)
    links = [WorkerLink(shard, settings.shard_timeout) for shard in range(settings.workers)]
    supervisor = Supervisor(links, processes, start, durable=settings.data is not None, limit=settings.shard_timeout)
    starting = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(stop.wait())
    async with AsyncExitStack() as running:
        running.push_async_callback(supervisor.stop)
        running.callback(starting.cancel)
        running.callback(stopping.cancel)
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        starting.result()
        router = Router(links)
        listeners = Listeners(await _services(settings, router, running), settings.limits, settings.browsers)
        running.push_async_callback(listeners.close)
        for bind in settings.binds:
            sys.stdout.write(f"listening on {await listeners.open(bind)}\n")
            sys.stdout.flush()
        running.callback(asyncio.create_task(_write_snapshots(router, wanted)).cancel)
        running.callback(asyncio.create_task(give_back()).cancel)
        gc.freeze()
        await stop.wait()
        log.info("stopping")


async def _services(settings: Settings, router: Router, running: AsyncExitStack) -> Services:
    await router.reconcile()
    users = Users(router)
    if settings.admin_user is not None and settings.admin_password is not None:
        await users.set_administrator(settings.admin_user, settings.admin_password)
    if settings.upstream is None:
        return Services(store=router, users=users, stats=Stats())
    store = ChainedStore(router, Upstream(settings.upstream), Misses(settings.upstream.remember_misses))
    store.start()
    running.push_async_callback(store.close)
    return Services(store=store, users=users, stats=Stats())


async def _write_snapshots(router: Router, wanted: asyncio.Event) -> None:
    """Write a snapshot of every shard whenever one is wanted: on SIGUSR1 (`shardhash snapshot`)."""
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await router.snapshot()
        except ShardhashError as error:
            log.error("no snapshot was written: %s", error)
        else:
            log.info("a snapshot of every shard is written and verified")
