"""The parser of all command lines: argparse, but its errors name what was misspelled, and what may be meant.

By itself argparse takes the value of an unknown option for the command, and what the command lacks for the error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_NUMBER = re.compile(r"-\d+|-\d*\.\d+", re.ASCII)
_FEW = 3
"""Options that an error names one by one."""


class Parser(argparse.ArgumentParser):
    """A parser that looks through the options first. Ends the process, status 2, when anything is left over."""

    outer: Parser | None = None
    """The parser whose options stand before the command that this one is of."""

    def parse_known_args(  # type: ignore[override]  # its overloads tell namespaces apart
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """What was given; the list is empty."""
        words = list(sys.argv[1:] if args is None else args)
        self._check(words)
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            folder = self.knows("--data") and Path(left[0]).is_dir()
            hint = f"; did you mean --data {left[0]}?" if folder else self._few_options()
            self.error(f"{left[0]!r} is one argument too many{hint}")
        return parsed, left

    def _check(self, words: Sequence[str]) -> None:
        commands = next((one for one in self._actions if isinstance(one, argparse._SubParsersAction)), None)  # noqa: SLF001
        values = 0
        for word in words:
            if values:
                values -= 1
            elif word == "--":
                return
            elif self.knows(word):
                values = self._values_behind(word)
            elif len(word) > 1 and word[0] == "-" and " " not in word and not _NUMBER.fullmatch(word):
                self._refuse_option(word.partition("=")[0])
            elif commands is not None:
                if word not in commands.choices:
                    self.error(f"there is no command {word!r}{self._hint(word, commands.choices)}")
                return

    def knows(self, word: str) -> bool:
        """Whether it is an option of this parser, perhaps with its value or with other letters."""
        known = self._option_string_actions
        return word.partition("=")[0] in known or (word[:2] in known and word[:2] != "--")

    def spellings(self) -> list[str]:
        """Its options, as they are written."""
        return [*self._option_string_actions]

    def _values_behind(self, word: str) -> int:
        """How many of the next words belong to a known option."""
        name, equals, _ = word.partition("=")
        if equals:
            return 0
        known = self._option_string_actions
        if name not in known:  # letters: switches, the last one may have a value
            *switches, last = (known.get(f"-{letter}") for letter in word[1:])
            if last is None or any(one is None or one.nargs != 0 for one in switches):
                return 0
        else:
            last = known[name]
        return 1 if last.nargs is None else last.nargs if isinstance(last.nargs, int) else 0

    def _refuse_option(self, name: str) -> NoReturn:
        known = self.spellings()
        if self.outer is not None:
            if self.outer.knows(name):
                command = self.prog.removeprefix(self.outer.prog).strip()
                self.error(f"{name} stands before the command: {self.outer.prog} {name} ... {command}")
            known += self.outer.spellings()
        self.error(f"there is no option {name}{self._hint(name, known)}")

    def _hint(self, name: str, known: Iterable[str]) -> str:
        return did_you_mean(name, known) or f"; {self.prog} --help names them all"

    def _few_options(self) -> str:
        """The options with a value, if they are few: a value is written without its option easily."""
        known = [one for one in self._actions if one.option_strings and one.nargs != 0]
        shown = [f"{one.option_strings[0]} {one.metavar}" for one in known if isinstance(one.metavar, str)]
        return f"; values are given by {', '.join(shown)}" if 0 < len(shown) <= _FEW else ""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """A hint at the known name that is nearest; "" if none is near. Dashes in front and capitals do not count."""
    from difflib import get_close_matches  # slow to import, and needed only after a typing error

    spelled = {_bare(one): one for one in known}
    near = get_close_matches(_bare(name), spelled, 1, cutoff)
    return f"; did you mean {spelled[near[0]]}?" if near else ""


def _bare(name: str) -> str:
    return name.lstrip("-").lower()
