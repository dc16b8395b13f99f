"""The server's start: settings to a locked data directory, to worker processes, to a coordinator (assembly.py).

Workers are started before the coordinator's own libraries are loaded, which takes as long as theirs: a start takes
half the time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from shardhash.base import descriptors
from shardhash.base.malloc import keep_buffers
from shardhash.coordinator.sockets import check_free
from shardhash.errors import ConfigError, DamagedShardError, DamageError, InUseError, ShardhashError, StorageError
from shardhash.link import messages
from shardhash.link.worker_options import WorkerOptions
from shardhash.server.coordinator_process import open_log, prepare_process
from shardhash.server.reload import Reload
from shardhash.server.service_manager import ServiceManager
from shardhash.server.settings import Settings
from shardhash.server.stop_signals import StopSignals
from shardhash.server.worker_processes import NO_CERTIFICATES, WorkerProcess
from shardhash.shard.directory.generations import prepare_directory, remove_leftovers
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import Manifest, make_directory
from shardhash.shard.storage.filesystem import OsFileSystem

log = logging.getLogger(__name__)


def run(settings: Settings, reload: Reload) -> int:
    """Serve until one of STOP_SIGNALS; the exit status. Errors of the start go to the log, in words for people."""
    descriptors.fill_standard()
    open_log(settings)
    prepare_process()
    for notice in settings.notices:
        log.info("%s", notice)
    for warning in settings.warnings():
        log.warning("%s", warning)
    stop_signals = StopSignals()
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # neither ends a start
    try:
        with ExitStack() as held:
            manager = ServiceManager(os.environ)
            _check_addresses(settings, manager)
            locks = _lock_data(settings, held)
            manifest = _prepare_data(settings, manager.tell_progress)
            start = partial(_start_worker, worker_options(settings, manifest).arguments(), locks)
            processes = []
            for shard in range(settings.workers):
                processes.append(_first_start(start, shard))
                held.callback(processes[-1].discard)
            _import_aiohttp()  # after the workers are on their way
            import uvloop

            from shardhash.server.assembly import serve
            from shardhash.server.store_factory import Workers

            keep_buffers()
            workers = Workers(processes, start, partial(_clear_up, settings, manifest))
            began = uvloop.run(serve(settings, workers, stop_signals, reload, manager))
    except SystemExit:  # a signal that came early
        log.info("stopped")
        raise
    except (DamageError, DamagedShardError) as error:
        log.error("%s", error)
        return messages.EXIT_DAMAGED  # a service manager is not to try again
    except (ConfigError, StorageError) as error:
        log.error("%s", error)
        return 1
    except ShardhashError:
        log.exception("the server cannot go on")
        return 1
    took = time.monotonic() - began
    log.info("stopped%s", f" after {took:.1f} s" if took > 1 else "")
    return 0


def _import_aiohttp() -> None:
    """Import it without the system's certificates, which take it a tenth of a start, for a context not used here.

    A connection that needs them gets its own context (client/environment.py).
    """
    kept = {name: os.environ.pop(name, None) for name in NO_CERTIFICATES}
    os.environ.update(NO_CERTIFICATES)
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _first_start(start: Callable[[int], WorkerProcess], shard: int) -> WorkerProcess:
    try:
        return start(shard)
    except OSError as error:
        raise ConfigError(
            f"worker process {shard} cannot be started: {error.strerror or error}. Its socket lies in a new folder in"
            f" TMPDIR ({os.environ.get('TMPDIR', '/tmp')}); see that there is room, and that the server may write there"
        ) from None


def _check_addresses(settings: Settings, manager: ServiceManager) -> None:
    """Raise ConfigError for an address that cannot be had, before a data directory is made for nothing.

    Of one that is there already its lock says more: who serves it.
    """
    if settings.data is None or os.access(settings.data, os.F_OK):
        return
    binds = [*settings.binds, *([settings.http] if settings.http is not None else [])]
    asyncio.run(check_free(bind.address for bind in binds if not manager.sockets.has(bind.address)))


def _lock_data(settings: Settings, held: ExitStack) -> list[int]:
    """Make and lock the data directory, if there is one; the descriptors of the lock."""
    if settings.data is None:
        return []
    make_directory(OsFileSystem(), settings.data)
    try:
        return held.enter_context(lock_directory(settings.data))
    except InUseError as error:
        raise ConfigError(f"{error}, or let that server listen here too: --bind A --bind B,read-only") from None


def _prepare_data(settings: Settings, tell_progress: Callable[[str], None]) -> Manifest | None:
    """Make the data directory ready for the number of workers; None without one."""

    def tell(text: str) -> None:
        log.info("%s", text)
        tell_progress(text)

    if settings.data is None:
        return None
    return prepare_directory(OsFileSystem(), settings.data, settings.workers, tell)


def _clear_up(settings: Settings, manifest: Manifest | None) -> None:
    """Remove the generation that a reshard or restore replaced, now that every shard has recovered."""
    if settings.data is not None and manifest is not None:
        try:
            remove_leftovers(OsFileSystem(), settings.data, manifest)
        except (DamageError, OSError) as error:
            log.warning("leftovers in %s cannot be removed: %s; the next start tries again", settings.data, error)


def _start_worker(arguments: Sequence[str], locks: Sequence[int], shard: int) -> WorkerProcess:
    return WorkerProcess(shard, arguments, locks)


def worker_options(settings: Settings, manifest: Manifest | None) -> WorkerOptions:
    """The options that every worker gets."""
    if manifest is None:
        return WorkerOptions(settings.workers, sync=settings.sync)
    return WorkerOptions(
        shards=settings.workers,
        data=settings.data,
        generation=manifest.generation,
        sync=settings.sync,
        sync_interval=settings.sync_interval,
        snapshot_interval=settings.snapshot_interval,
        snapshot_bytes=settings.snapshot_bytes,
        keep_snapshots=settings.keep_snapshots,
    )
