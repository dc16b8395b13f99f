"""What the command lines of all subcommands share: their parsers, and how their errors end them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from shardhash.base.owners import describe
from shardhash.base.parser import Parser
from shardhash.errors import ShardhashError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def parser_of(name: str, description: str, examples: str, usage: str | None = "[OPTIONS]") -> Parser:
    """The parser of ``shardhash NAME``; help texts keep their line breaks. `usage` None: argparse writes it."""
    return Parser(
        f"shardhash {name}",
        usage=None if usage is None else f"shardhash {name} {usage}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # hide_secret looks for whole names
    )


def run_command(
    name: str,
    work: Callable[[], int],
    *,
    interrupted: str = "interrupted",
    hint: Callable[[str], str] = lambda _: "",
) -> int:
    """The exit status of a command, its errors said on standard error. `hint` is said behind the text of an error."""
    try:
        return work()
    except (ShardhashError, OSError) as error:
        text = _text_of(error)
        sys.stderr.write(f"shardhash {name}: {text}{hint(text)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"shardhash {name}: {interrupted}\n")
        return INTERRUPTED


def _text_of(error: Exception) -> str:
    if not isinstance(error, OSError) or isinstance(error, ShardhashError):
        return str(error)
    if error.filename is None:
        return describe(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no {error.filename}"
    return f"{error.filename}: {describe(error)}"
