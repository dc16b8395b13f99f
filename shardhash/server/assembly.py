"""Serving: Store, users and listeners put together, until a signal; then taken down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from shardhash import __version__
from shardhash.base.malloc import give_back
from shardhash.base.tasks import BackgroundTasks
from shardhash.coordinator.bind import Bind
from shardhash.coordinator.listeners import Listeners, Plain
from shardhash.coordinator.services import Services
from shardhash.coordinator.stats import Stats
from shardhash.coordinator.tls import ServerTls
from shardhash.coordinator.users import Users
from shardhash.errors import ShardhashError
from shardhash.http.elsewhere import only_at
from shardhash.http.site import Site
from shardhash.server.control import Command, control_socket, write_snapshots
from shardhash.server.first_writes import do_or_retry
from shardhash.server.followers import Followers
from shardhash.server.listening import make_listeners, take_over
from shardhash.server.on_demand import OnDemand
from shardhash.server.reload import Reload
from shardhash.server.room_watch import load_quotas, save_quotas, watch_room
from shardhash.server.service_manager import ServiceManager
from shardhash.server.settings import Settings
from shardhash.server.stop_signals import StopSignals, on_signals
from shardhash.server.store_factory import Workers, open_store
from shardhash.server.watchdog import keep_fed
from shardhash.server.whole_server import WholeServer
from shardhash.stores.chained.store import ChainedStore
from shardhash.stores.interface import Store
from shardhash.wire.address import Address

log = logging.getLogger(__name__)


async def serve(
    settings: Settings,
    workers: Workers,
    stop_signals: StopSignals,
    reload: Reload,
    manager: ServiceManager,
) -> float:
    """Serve until one of the signals; `manager` is told how it goes. Returns when the stop began, monotonic seconds.

    Raises ConfigError when what keeps the hashes, or an address, cannot be had.
    """
    log.info("shardhash %s, %s", __version__, settings.describe_data())
    stop, wanted, hangup = stop_signals.event(), on_signals(signal.SIGUSR1), on_signals(signal.SIGHUP)
    async with AsyncExitStack() as running:
        starting = asyncio.create_task(open_store(settings, workers, manager.tell_progress, running))
        stopping = asyncio.create_task(stop.wait())
        running.callback(stopping.cancel)
        background = BackgroundTasks()
        running.push_async_callback(background.close)
        background.start(manager.ask_for_time(), "asking the service manager for time")
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            starting.cancel()
            await asyncio.wait([starting])
            return time.monotonic()
        store = starting.result()
        tls = None if settings.tls is None else ServerTls(settings.tls)
        services = Services(
            store=store, users=await _users(settings, store, running), stats=Stats(), slow=settings.slow or math.inf
        )
        followers = workers.followers
        if followers is not None:
            background.start(WholeServer(services, followers).run(), "figures of all coordinators")
        if settings.data is not None:
            _watch_data(settings.data, services, background, running)
        site = Site(services, settings.browsers, settings.data)
        plain: Plain = site.answer if settings.coordinators == 1 else only_at(settings.http, site.answer)
        listeners = make_listeners(settings, services, tls, plain, followers.loads if followers else None)
        running.push_async_callback(listeners.close)
        on_demand = None if settings.idle is None else OnDemand(settings, store, listeners, stop)
        await running.enter_async_context(control_socket(settings.data, _commands(store, on_demand)))
        site.start()
        running.push_async_callback(site.close)
        addresses = await _listen(listeners, settings, manager)
        if followers is not None:
            await _start_followers(followers, workers, services, listeners, stopping, running)
        _announce_all(addresses, settings)
        if tls is not None:
            background.start(tls.watch(), "watching the files of TLS")
        reload.add(partial(_take_over, listeners, tls, followers, settings.coordinators))
        serving = f"serving at {', '.join(map(str, addresses))}; {settings.describe_data()}"
        background.start(_reload_settings(reload, hangup, manager, serving), "reading the settings again")
        background.start(keep_fed(manager, addresses[0]), "the watchdog")
        if on_demand is not None:
            background.start(on_demand.end_when_idle(addresses), "waiting until nobody is connected")
        background.start(_write_snapshots(store, wanted), "snapshots")
        background.start(give_back(), "giving memory back")
        gc.freeze()
        manager.tell_ready(serving)
        await stop.wait()
        manager.tell(STOPPING="1", STATUS="stopping")
        log.info("stopping")
        return time.monotonic()


def _watch_data(data: Path, services: Services, background: BackgroundTasks, running: AsyncExitStack) -> None:
    """Watch how full the disk is, and keep what users store in a day."""
    load_quotas(data, services.quotas)
    running.push_async_callback(save_quotas, data, services.quotas)
    background.start(watch_room(data, services.room, services.quotas), "watching the disk")
    if isinstance(services.store, ChainedStore):
        services.store.may_keep = lambda: not services.room.low


def _commands(store: Store, on_demand: OnDemand | None) -> dict[str, Command]:
    """What the control socket answers."""
    commands: dict[str, Command] = {"snapshot": partial(write_snapshots, store)}
    return commands if on_demand is None else commands | on_demand.commands()


async def _start_followers(
    followers: Followers,
    workers: Workers,
    services: Services,
    listeners: Listeners,
    stopping: asyncio.Task[bool],
    running: AsyncExitStack,
) -> None:
    """Start the other coordinators, and wait until all of them serve, or the server is to stop."""
    assert workers.router is not None
    running.push_async_callback(followers.close)
    listening = [[raw.fileno() for raw in sockets] for sockets in listeners.sockets]
    followers.start(workers.router, services.users, services.collections, listening)
    serving = asyncio.create_task(followers.serving())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()


async def _listen(listeners: Listeners, settings: Settings, manager: ServiceManager) -> list[Address]:
    """Listen on every address, on a socket passed for it if there is one; the addresses with their real ports."""
    addresses = [await listeners.open(bind, manager.sockets.take(bind.address)) for bind in settings.binds]
    if settings.http is not None:
        addresses.append(await listeners.open_http(settings.http, manager.sockets.take(settings.http.address)))
    for place in manager.sockets.close():
        log.warning("a socket at %s was passed, but no address is like that; add --bind %s, or drop it", place, place)
    return addresses


def _announce_all(addresses: Sequence[Address], settings: Settings) -> None:
    for address, bind in zip(addresses, settings.binds, strict=False):
        _announce(str(address), bind)
    if settings.http is not None:
        _announce(f"http://{addresses[-1]}", settings.http)


def _take_over(
    listeners: Listeners, tls: ServerTls | None, followers: Followers | None, coordinators: int, settings: Settings
) -> list[str]:
    """Apply settings that were read again; a text for each that needs a restart."""
    texts = take_over(settings, listeners, tls, coordinators)
    if followers is not None:
        followers.reload(settings)
    if settings.coordinators != coordinators:
        texts.append(f"coordinators are {coordinators}, not {settings.coordinators}")
    if (tls is None) != (settings.tls is None):
        texts.append(f"TLS stays {'off' if tls is None else 'on'}")
    return texts


async def _reload_settings(reload: Reload, hangup: asyncio.Event, manager: ServiceManager, serving: str) -> None:
    """Read the settings again at each SIGHUP."""
    while True:
        await hangup.wait()
        hangup.clear()
        manager.tell_reloading()
        try:
            if (told := await asyncio.to_thread(reload.read)) is not None:
                reload.apply(told)
        except Exception:  # go on, for the next SIGHUP
            log.exception("internal error while the settings were read again; this is a bug")
        manager.tell_ready(serving)


def _announce(address: str, bind: Bind) -> None:
    """Print the addresses that the server answers on, for scripts; log them with the permissions there."""
    if bind.read_only:
        rights = f"read-only, anonymous users {'only look up' if bind.anon_perms else 'must log in'}"
    else:
        rights = f"anonymous users hold {' '.join(sorted(bind.anon_perms)) or '@none'}"
    log.info("listening on %s: %s", address, rights)
    try:
        sys.stdout.write(f"listening on {address}\n")
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):  # it is closed or full, and nobody reads it
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # the interpreter flushes it at its end


async def _users(settings: Settings, store: Store, running: AsyncExitStack) -> Users:
    users = Users(store)
    running.push_async_callback(users.close)
    store.follow_entries(users.follow)
    if settings.admin_user is not None and settings.admin_password is not None:
        administrator = partial(users.set_administrator, settings.admin_user, settings.admin_password)
        await do_or_retry("the administrator", administrator, running)
    return users


async def _write_snapshots(store: Store, wanted: asyncio.Event) -> None:
    """Write a snapshot of every shard whenever one is wanted: on SIGUSR1."""
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await store.snapshot()
        except ShardhashError as error:
            log.error("no snapshot was written: %s", error)
        else:
            log.info("a snapshot of every shard is written and verified")
