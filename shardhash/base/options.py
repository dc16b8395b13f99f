"""Options: each is a flag, a variable of the environment and, for a server, a key of a TOML file; all are read here.

The flag wins, then the option's variables in their order (``SHARDHASH_*`` before ``HASHSERVER_*``), then the file
(settings_file.py), then the default. A variable that is set but empty counts as unset, as it does in units and
containers that pass every one along; but where the reference takes it for a value ("no permissions"), so it is here
(`Option.empty`).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from shardhash.base.parser import Parser, did_you_mean
from shardhash.base.settings_file import File, find_file
from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError

DEFAULT_DATA = "./hashserv.shardhash"
DATABASE = "HASHSERVER_DB"
"""The reference's variable for its database file, which is set in people's units."""

PREFIXES = ("SHARDHASH_", "HASHSERVER_")
"""How the variables of options begin."""

DEFAULT = "default"
"""The source of a value that nobody gave."""

DESCRIBE: list[str] = []
"""Arguments that make a command raise `Described` and do nothing else; compare with ``is``."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SPANS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Value:
    """What an option is set to. `source`: the flag, the variable or the file that says so, or DEFAULT."""

    value: Any
    source: str


class Fields(TypedDict, total=False):
    """What describes an option besides its flag and its variables; see `Option`."""

    help: str
    convert: Callable[[str], Any]
    default: Any
    metavar: str
    short: str
    values: tuple[str, ...]
    switch: bool
    repeatable: bool
    words: bool
    empty: bool
    secret: bool
    reloadable: bool
    in_file: bool


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `convert` turns its text into its value, or raises ConfigError that says what it must be."""

    flag: str
    variables: tuple[str, ...] = ()
    help: str = ""
    convert: Callable[[str], Any] = str
    default: Any = None
    """A value, or a function that gives it, of the environment."""
    metavar: str = ""
    short: str = ""
    values: tuple[str, ...] = ()
    """The texts that it takes, if they can be listed; for completion."""
    switch: bool = False
    """It is on or off, and takes no text."""
    repeatable: bool = False
    """Its value is a list; white space parts the items in a variable."""
    words: bool = False
    """Its text is words separated by spaces; a list in a file is joined to one."""
    empty: bool = False
    """An empty text is a value, also in a variable."""
    secret: bool = False
    """Its value is never shown."""
    reloadable: bool = False
    """A running server takes over another value (server/reload.py)."""
    in_file: bool = True
    """It may stand in a file."""

    @property
    def key(self) -> str:
        """Its name in a file."""
        return self.flag.lstrip("-")

    @property
    def name(self) -> str:
        """The attribute that holds its value."""
        return self.key.replace("-", "_")

    def resolve(self, given: Any, environment: Mapping[str, str], file: File | None = None) -> Value:
        """The value that the flag gave (`given`: None, a text, True, or a list of texts), a variable, a file or nobody.

        Raises ConfigError that begins with the source of a text that is wrong.
        """
        if given is not None:
            return Value(given if given is True else self._convert(given, self.flag), self.flag)
        for variable in self.variables:
            text = environment.get(variable, "")
            if text.strip() or (self.empty and variable in environment):
                # A plain text may be a secret, where white space counts.
                plain = text if self.convert is str else text.strip()
                return Value(self._convert(text.split() if self.repeatable else plain, variable), variable)
        if file is not None and self.in_file and self.key in file.values:
            origin = f"{file.place(self.key)}: {self.key}"
            return Value(self._from_file(file.values[self.key], origin), file.name)
        return Value(self.default(environment) if callable(self.default) else self.default, DEFAULT)

    def _convert(self, given: Any, origin: str) -> Any:
        try:
            return [self.convert(text) for text in given] if self.repeatable else self.convert(given)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None

    def _from_file(self, found: Any, origin: str) -> Any:
        """The value of what TOML gave. Numbers and texts are alike: ``workers = 4``, ``sync-interval = "2s"``."""
        if self.switch:
            if isinstance(found, bool):
                return found
            raise ConfigError(f"{origin}: write true or false")
        if isinstance(found, list) and not (self.repeatable or self.words):
            raise ConfigError(f"{origin}: it takes one value, not a list")
        items = found if isinstance(found, list) else [found]
        if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
            raise ConfigError(f"{origin}: write a text in quotes{' or a list of them' * self.repeatable}")
        texts = [str(item) for item in items]
        if not self.empty and not all(text.strip() for text in texts):
            raise ConfigError(f"{origin}: the text is empty; leave the line out")
        if self.repeatable:
            return self._convert(texts if isinstance(found, list) else texts[0].split(), origin)
        return self._convert(" ".join(texts), origin)

    def plain(self, value: Any) -> Any:
        """A value as a file holds it: None, a truth, a number, a text or a list of texts."""
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, list | tuple):
            return [str(item) for item in value]
        if isinstance(value, frozenset):
            return " ".join(sorted(value)) or "@none"
        if self.convert is seconds:
            return _with_unit(value, _SPANS)
        if self.convert in (size, size_or_none):
            return _with_unit(value, _UNITS)
        return value if isinstance(value, int | float) else str(value)


def _with_unit(value: float, units: Mapping[str, float]) -> str:
    """A number written with the largest unit that divides it."""
    if not value:
        return "0"
    unit = max((unit for unit in units if value % units[unit] == 0), key=lambda unit: units[unit], default="")
    return f"{value / units[unit]:.12g}{unit}"


def option(flag: str, *variables: str, **fields: Unpack[Fields]) -> Option:
    """An option with a value; with a list of values when `repeatable`."""
    return Option(flag, variables, **fields)


def switch(flag: str, *variables: str, **fields: Unpack[Fields]) -> Option:
    """An option that is on or off."""
    return Option(flag, variables, **({"convert": truth, "default": False, "switch": True} | fields))


class Described(SystemExit):
    """Raised by a command that was given DESCRIBE: what it takes. Nothing was done."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options


class Options:
    """The options of one command; `parse` gives their values in a namespace."""

    def __init__(self, parser: Parser, table: Mapping[str, Sequence[Option]] | None = None) -> None:
        """`table`: options under the titles that they have in --help."""
        self.parser = parser
        self._options: dict[str, Option] = {}
        self._group: Any = parser
        for title, options in (table or {}).items():
            self._group = parser.add_argument_group(title)
            for one in options:
                self.take(one)

    def __getitem__(self, name: str) -> Option:
        """The option whose value has this name."""
        return self._options[name]

    def __contains__(self, name: str) -> bool:
        return name in self._options

    def all(self) -> Iterable[Option]:
        """Every option, in order."""
        return self._options.values()

    def add(self, flag: str, *variables: str, **fields: Unpack[Fields]) -> None:
        """Take an option with a value."""
        self.take(option(flag, *variables, **fields))

    def switch(self, flag: str, *variables: str, **fields: Unpack[Fields]) -> None:
        """Take an option that is on or off."""
        self.take(switch(flag, *variables, **fields))

    def take(self, taken: Option) -> None:
        """One more option."""
        self._options[taken.name] = taken
        flags = [taken.flag, taken.short] if taken.short else [taken.flag]
        if taken.switch:
            self._group.add_argument(
                *flags, dest=taken.name, action="store_const", const=True, help=_describe(taken, "=1")
            )
            return
        self._group.add_argument(
            *flags,
            dest=taken.name,
            metavar=taken.metavar or taken.name.upper(),
            action="append" if taken.repeatable else "store",
            help=_describe(taken),
        )

    def variables(self) -> set[str]:
        """Every variable that one of the options reads."""
        return {variable for one in self._options.values() for variable in one.variables}

    def unknown_variables(self, environment: Mapping[str, str], others: Iterable[str] = ()) -> list[str]:
        """A remark for each variable with a prefix of ours that no option reads: a typing error, most likely.

        `others`: variables that mean something elsewhere.
        """
        known = self.variables() | set(others)
        unknown = sorted(name for name in environment if name.startswith(PREFIXES) and name not in known)
        near = [did_you_mean(name, known, 0.85) for name in unknown]  # their prefixes make all of them alike
        return [
            f"the variable {name} is set, but nothing reads it{hint}" for name, hint in zip(unknown, near, strict=True)
        ]

    def flags(self, arguments: Sequence[str]) -> argparse.Namespace:
        """What the flags give, and what else the parser knows. Ends the process, status 2, when one is wrong."""
        if arguments is DESCRIBE:
            raise Described(self)
        return self.parser.parse_args(arguments)

    def resolve(
        self, given: argparse.Namespace, environment: Mapping[str, str], file: File | None = None
    ) -> dict[str, Value]:
        """The value of each option by its name. Raises one ConfigError with everything that is wrong, a line each."""
        values, wrong = {}, [] if file is None else file.unknown({one.key: one.variables for one in self._in_file()})
        for one in self._options.values():
            try:
                values[one.name] = one.resolve(getattr(given, one.name), environment, file)
            except ConfigError as error:
                wrong.append(str(error))
        if wrong:
            raise ConfigError("\n".join(wrong))
        return values

    def _in_file(self) -> list[Option]:
        return [one for one in self._options.values() if one.in_file]

    def parse(self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """The values of all options, and what else the parser knows. Ends the process, status 2, when one is wrong."""
        parsed = self.flags(arguments)
        try:
            for name, found in self.resolve(parsed, environment).items():
                setattr(parsed, name, found.value)
        except ConfigError as error:
            self.parser.error(str(error))
        return parsed


def _describe(one: Option, suffix: str = "") -> str:
    """The line of --help: purpose, default, variables."""
    text = one.help
    if not callable(one.default) and one.default not in (None, False, [], ()) and "(default" not in text:
        shown = one.plain(one.default)
        text += f" (default {' '.join(shown) if isinstance(shown, list) else shown})"
    return f"{text} [{', '.join(variable + suffix for variable in one.variables)}]" if one.variables else text


def whole(low: int, high: int) -> Callable[[str], int]:
    """Converts a whole number from `low` to `high`."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ConfigError(f"{text!r} is not a whole number from {low} to {high}")
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
    """A span of time, more than none: seconds, or with ms, s, m, h or d behind the number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd]?)", text, re.ASCII)
    value = float(match[1]) * _SPANS[match[2]] if match else 0.0
    if value <= 0:
        raise ConfigError(f"{text!r} is not a span of time: write seconds, or 90s, 15m, 2h, 1d")
    return value


def size(text: str) -> int:
    """A number of bytes, more than none, or with K, M or G (powers of 1024) behind it."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper(), re.ASCII)
    value = int(match[1]) * _UNITS[match[2]] if match else 0
    if value <= 0:
        raise ConfigError(f"{text!r} is not a size: write bytes, or 512K, 64M, 1G")
    return value


def size_or_none(text: str) -> int:
    """A `size`, or 0."""
    return 0 if text == "0" else size(text)


def timestamp(text: str) -> int:
    """A timestamp, ISO 8601, UTC unless it has a zone; in microseconds since 1970 UTC."""
    try:
        return from_iso(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a time: write 2026-11-23T18:00, UTC, or 2026-11-23T18:00+01:00") from None


def truth(text: str) -> bool:
    """On or off, as environments spell it."""
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ConfigError(f"{text!r} is neither 1 nor 0")


def served_data(environment: Mapping[str, str]) -> Path:
    """Where a server of this environment and of the file of settings keeps its data, if no variable says so."""
    file = find_file(environment)
    values = file.values if file is not None else {}
    data, database = values.get("data"), environment.get(DATABASE, "").strip() or values.get("database")
    return Path(data) if isinstance(data, str) else default_data(database if isinstance(database, str) else None)


def default_data(database: str | None) -> Path:
    """The data directory when none is named: beside the stock server's file, if there is one."""
    is_file = database is not None and "://" not in database
    return Path(f"{database}.shardhash") if database and is_file else Path(DEFAULT_DATA)
