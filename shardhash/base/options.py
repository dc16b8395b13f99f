"""Options of the command lines: each is a flag and a variable of the environment, and both are read in one place.

The flag wins, then the option's variables in their order (``SHARDHASH_*`` before ``HASHSERVER_*``), then the default.
A variable that is set but empty counts as unset, as it does in units and containers that pass every one along; but
where the reference takes it for a value ("no permissions"), so it is here (`Option.empty`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError

DEFAULT_DATA = "./hashserv.shardhash"
DATABASE = "HASHSERVER_DB"
"""The reference's variable for its database file, which is set in people's units."""

PREFIXES = ("SHARDHASH_", "HASHSERVER_")
"""How the variables of options begin."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `convert` turns its text into its value, or raises ConfigError that says what is due."""

    flag: str
    variables: tuple[str, ...]
    convert: Callable[[str], Any]
    default: Any
    repeatable: bool
    empty: bool = False
    """Whether a variable that is set but empty is a value."""

    @property
    def name(self) -> str:
        """The attribute that holds its value."""
        return self.flag.lstrip("-").replace("-", "_")

    def value(self, given: Any, environment: Mapping[str, str]) -> Any:
        """The value from what the flag gave (None, a text, True, or a list of texts), the variables, or the default."""
        if given is not None:
            return given if given is True else self._convert(given, self.flag)
        for variable in self.variables:
            text = environment.get(variable, "")
            if text.strip() or (self.empty and variable in environment):
                # A plain text may be a secret, where white space counts.
                plain = text if self.convert is str else text.strip()
                return self._convert(text.split() if self.repeatable else plain, variable)
        return self.default

    def _convert(self, given: Any, origin: str) -> Any:
        try:
            return [self.convert(text) for text in given] if self.repeatable else self.convert(given)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None


class Options:
    """The options of one command; `parse` gives their values in a namespace."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self._options: list[Option] = []
        self._group: Any = parser

    def group(self, title: str) -> None:
        """The options that follow stand under this title in --help."""
        self._group = self.parser.add_argument_group(title)

    def add(
        self,
        flag: str,
        *variables: str,
        help: str,  # noqa: A002  # argparse's own name for it
        convert: Callable[[str], Any] = str,
        metavar: str = "",
        default: Any = None,
        repeatable: bool = False,
        short: str = "",
        empty: bool = False,
    ) -> None:
        """An option with a value; with a list of values when `repeatable`, white space parts them in a variable."""
        option = Option(flag, variables, convert, default, repeatable, empty)
        self._options.append(option)
        flags = [flag, short] if short else [flag]
        self._group.add_argument(
            *flags,
            dest=option.name,
            metavar=metavar or option.name.upper(),
            action="append" if repeatable else "store",
            help=_describe(help, variables),
        )

    def switch(self, flag: str, *variables: str, help: str, short: str = "") -> None:  # noqa: A002
        """An option that is on or off."""
        option = Option(flag, variables, truth, False, False)
        self._options.append(option)
        flags = [flag, short] if short else [flag]
        self._group.add_argument(
            *flags, dest=option.name, action="store_const", const=True, help=_describe(help, variables, "=1")
        )

    def unknown_variables(self, environment: Mapping[str, str], others: Iterable[str] = ()) -> list[str]:
        """A remark for each variable with a prefix of ours that no option reads: a typing error, most likely.

        `others`: variables that mean something elsewhere.
        """
        known = {variable for option in self._options for variable in option.variables} | set(others)
        remarks = []
        for name in sorted(environment):
            if name.startswith(PREFIXES) and name not in known:
                near = get_close_matches(name, known, 1, 0.85)
                hint = f"; did you mean {near[0]}?" if near else ""
                remarks.append(f"the variable {name} is set, but nothing reads it{hint}")
        return remarks

    def parse(self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """The values of all options, and what else the parser knows. Ends the process, status 2, when one is wrong."""
        parsed = self.parser.parse_args(arguments)
        try:
            for option in self._options:
                setattr(parsed, option.name, option.value(getattr(parsed, option.name), environment))
        except ConfigError as error:
            self.parser.error(str(error))
        return parsed


def _describe(text: str, variables: Sequence[str], suffix: str = "") -> str:
    return f"{text} [{', '.join(variable + suffix for variable in variables)}]" if variables else text


def whole(low: int, high: int) -> Callable[[str], int]:
    """Converts a whole number from `low` to `high`."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ConfigError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return convert


def choice(*names: str, also: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Converts one of the names, in any case, to its spelling here. `also` has other names, upper case, for some."""
    others = also or {}

    def convert(text: str) -> str:
        for name in names:
            if others.get(text.upper(), text).lower() == name.lower():
                return name
        raise ConfigError(f"{text!r} is none of {', '.join(names)}")

    return convert


def seconds(text: str) -> float:
    """A span of time, more than none: seconds, or with s, m, h or d behind the number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text, re.ASCII)
    value = float(match[1]) * _SPANS[match[2]] if match else 0.0
    if value <= 0:
        raise ConfigError(f"{text!r} is no span of time: write seconds, or 90s, 15m, 2h, 1d")
    return value


def size(text: str) -> int:
    """A number of bytes, more than none, or with K, M or G (powers of 1024) behind it."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper(), re.ASCII)
    value = int(match[1]) * _UNITS[match[2]] if match else 0
    if value <= 0:
        raise ConfigError(f"{text!r} is no size: write bytes, or 512K, 64M, 1G")
    return value


def moment(text: str) -> int:
    """A point in time, ISO 8601, UTC unless it says otherwise; microseconds since 1970 UTC."""
    try:
        return from_iso(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: write 2026-11-23T18:00, UTC, or 2026-11-23T18:00+01:00") from None


def truth(text: str) -> bool:
    """On or off, as environments spell it."""
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ConfigError(f"{text!r} is neither 1 nor 0")


def default_data(database: str | None) -> Path:
    """The data directory when none is named: beside the stock server's file, if there is one."""
    return Path(database + ".shardhash") if database else Path(DEFAULT_DATA)


def hide_secret(flags: Sequence[str], variable: str, arguments: Sequence[str]) -> None:
    """Start this process anew, with a secret in its environment, if its command line shows one to every user (ps).

    `flags` are the option's spellings. `arguments` are what `main` was given; it does nothing unless they are the
    process's own. The process keeps its id. Returns if there is no secret, or never.
    """
    kept, secret = _without(flags, arguments)
    if secret is None or list(arguments) != sys.argv[len(sys.argv) - len(arguments) :]:
        return
    start = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *start[1:], *kept], os.environ | {variable: secret})


def _without(flags: Sequence[str], arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without an option, and its value, if they have it."""
    kept: list[str] = []
    secret: str | None = None
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in flags:
            kept.append(argument)
        elif equals:
            secret = value
        elif (following := next(rest, None)) is not None:
            secret = following
        else:
            kept.append(argument)  # the parser says that its value is missing
    return kept, secret
