"""The server: puts workers, Store, users and listeners together, runs until a signal, and takes them down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

import uvloop

from shardhash.coordinator.chained import ChainedStore, Misses
from shardhash.coordinator.handlers import Services
from shardhash.coordinator.links import WorkerLink
from shardhash.coordinator.listeners import Listeners
from shardhash.coordinator.router import Router
from shardhash.coordinator.settings import Settings
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.supervisor import Supervisor
from shardhash.coordinator.upstream import Upstream
from shardhash.coordinator.users import Users
from shardhash.errors import ConfigError, DamageError, ShardhashError
from shardhash.shard.fs import OsFileSystem
from shardhash.shard.manifest import Manifest, lock_directory, make_directory, prepare_directory

log = logging.getLogger(__name__)

GC_THRESHOLD = 50_000
"""Objects between collections; a coordinator makes few cycles, and a collection is a pause for every client."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Errors of the start go to the log, in words for people."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    gc.set_threshold(GC_THRESHOLD)
    for notice in settings.notices:
        log.info("%s", notice)
    for warning in settings.warnings():
        log.warning("%s", warning)
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # whoever wants a snapshot early does not mean to kill
        with ExitStack() as held:
            manifest = _open_data(settings, held)
            uvloop.run(_serve(settings, manifest))
    except (ConfigError, DamageError) as error:
        log.error("%s", error)
        return 1
    except ShardhashError:
        log.exception("the server cannot go on")
        return 1
    return 0


async def _serve(settings: Settings, manifest: Manifest | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    wanted = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, wanted.set)
    links = [WorkerLink(shard, settings.shard_timeout) for shard in range(settings.workers)]
    supervisor = Supervisor(links, worker_arguments(settings, manifest), durable=settings.data is not None)
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
        listeners = Listeners(await _services(settings, router, running), settings.limits)
        running.push_async_callback(listeners.close)
        for bind in settings.binds:
            sys.stdout.write(f"listening on {await listeners.open(bind)}\n")
            sys.stdout.flush()
        running.callback(asyncio.create_task(_write_snapshots(router, wanted)).cancel)
        gc.freeze()
        await stop.wait()
        log.info("stopping")


def _open_data(settings: Settings, held: ExitStack) -> Manifest | None:
    """Lock the data directory and make it ready for the number of workers; None without one."""
    if settings.data is None:
        return None
    fs = OsFileSystem()
    make_directory(fs, settings.data)
    held.enter_context(lock_directory(settings.data))
    return prepare_directory(fs, settings.data, settings.workers, lambda text: log.info("%s", text))


async def _services(settings: Settings, router: Router, running: AsyncExitStack) -> Services:
    await router.reconcile()
    users = Users(router)
    if settings.admin_user is not None and settings.admin_password is not None:
        await users.set_administrator(settings.admin_user, settings.admin_password)
    if settings.upstream is None:
        return Services(store=router, users=users, stats=Stats(), backfill=_nothing_queued)
    store = ChainedStore(router, Upstream(settings.upstream), Misses(settings.upstream.remember_misses))
    store.start()
    running.push_async_callback(store.close)
    return Services(store=store, users=users, stats=Stats(), backfill=store.backfilled, distant=True)


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


async def _nothing_queued() -> int:
    return 0


def worker_arguments(settings: Settings, manifest: Manifest | None) -> Sequence[str]:
    """What each worker is told on its command line, besides its shard."""
    arguments = ["--shards", str(settings.workers), "--sync", settings.sync]
    if settings.data is not None and manifest is not None:
        arguments += ["--data", str(settings.data), "--generation", str(manifest.generation)]
        arguments += ["--sync-interval", str(settings.sync_interval)]
        arguments += ["--snapshot-interval", str(settings.snapshot_interval)]
        arguments += ["--snapshot-bytes", str(settings.snapshot_bytes)]
        arguments += ["--keep-snapshots", str(settings.keep_snapshots)]
    return arguments
