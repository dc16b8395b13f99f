"""The listeners of a coordinator, the server's own or a follower's: made from settings, and told of new ones."""

from __future__ import annotations

import logging
from dataclasses import replace

from shardhash.base import descriptors
from shardhash.coordinator.listeners import Listeners, Plain
from shardhash.coordinator.loads import Loads
from shardhash.coordinator.proxies import Proxies
from shardhash.coordinator.services import Services
from shardhash.coordinator.tls import ServerTls
from shardhash.server.settings import Settings


def make_listeners(
    settings: Settings, services: Services, tls: ServerTls | None, plain: Plain, loads: Loads | None
) -> Listeners:
    """Listeners that share limits and sockets with those of the other coordinators, if there are any."""
    return Listeners(
        services,
        settings.limits.share(settings.coordinators),
        settings.browsers,
        tls,
        plain,
        descriptors.limit() - descriptors.RESERVED,
        Proxies(settings.trust_proxies),
        loads,
    )


def renewed(in_force: Settings, given: Settings) -> Settings:
    """The settings in force once `take_over` was called with those given, for a coordinator that begins later."""
    rules = {bind.address: bind for bind in given.binds}
    return replace(
        in_force,
        binds=tuple(rules.get(bind.address, bind) for bind in in_force.binds),
        limits=given.limits,
        tls=in_force.tls and (given.tls or in_force.tls),
        log_level=given.log_level,
        trust_proxies=given.trust_proxies,
    )


def take_over(settings: Settings, listeners: Listeners, tls: ServerTls | None, coordinators: int) -> list[str]:
    """Apply settings that were read again; a text for each address that needs a restart.

    `coordinators`: how many there are, whatever the settings say now.
    """
    logging.getLogger().setLevel(settings.log_level)
    if tls is not None:
        tls.reload(settings.tls)
    binds = [*settings.binds, *([settings.http] if settings.http is not None else [])]
    return listeners.set_rules(binds, settings.limits.share(coordinators), Proxies(settings.trust_proxies))
