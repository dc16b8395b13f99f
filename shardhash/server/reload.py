"""SIGHUP: the settings are read again, and a running server takes over what it can.

Flags and environment are those of the start; only files can say something else by then. What is wrong changes nothing.
Each part of the server that can take over settings adds a function here; an option that one of them applies is marked
`reloadable` in the table (option_table.py). For any other that changed, the log says that it takes a new start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from shardhash.base.options import Option
from shardhash.errors import ConfigError
from shardhash.server.settings import Configuration, Settings

log = logging.getLogger(__name__)

Apply: TypeAlias = Callable[[Settings], Iterable[str]]
"""Applies the new settings it is concerned with; returns a text for each that it cannot apply. It must not raise."""


class Reload:
    """The settings of a running server, and how it takes over others."""

    def __init__(self, told: Configuration, options: Iterable[Option], reread: Callable[[], Configuration]) -> None:
        """`told`: the settings in force. `reread` returns the settings as given now, or raises ConfigError."""
        self._in_force = {name: found.value for name, found in told.values.items()}
        self._warnings = set(told.settings.warnings())
        self._options: Sequence[Option] = tuple(options)
        self._reread = reread
        self._appliers: list[Apply] = []

    def add(self, apply: Apply) -> None:
        """Call this with the new settings at each reload, whether anything changed or not."""
        self._appliers.append(apply)

    def read(self) -> Configuration | None:
        """The settings as given now; None, logged, when they cannot be used. Reads files, which may take long."""
        try:
            return self._reread()
        except ConfigError as error:
            log.error("the settings cannot be read again, and stay as they were: %s", error)
            return None

    def apply(self, told: Configuration) -> None:
        """Apply what can be applied; log what changed, and what needs a restart."""
        for warning in sorted(set(told.settings.warnings()) - self._warnings):
            log.warning("%s", warning)
        self._warnings = set(told.settings.warnings())
        left = [text for apply in self._appliers for text in apply(told.settings)]
        for option in self._options:
            found = told.values[option.name]
            if found.value == self._in_force[option.name]:
                continue
            if option.reloadable:
                self._in_force[option.name] = found.value
                log.info("%s is now %s (%s)", option.key, _shown(option, found.value), found.source)
            else:
                left.append(f"{option.key} changed, but stays {_shown(option, self._in_force[option.name])}")
        for text in left:
            log.warning("%s until the server is started again", text)
        log.info("the settings are read again")


def _shown(option: Option, value: Any) -> str:
    if option.secret:
        return "as it is"
    plain = option.plain(value)
    return "not set" if plain is None else " ".join(plain) if isinstance(plain, list) else str(plain)
