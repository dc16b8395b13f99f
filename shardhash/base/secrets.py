"""Keep secrets off the command line, which every user of a machine can read (ps)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardhash.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from shardhash.base.options import Options

PASSWORD = "SHARDHASH_PASSWORD"
"""The variable with the token of whoever logs in at a server."""


def password_of(login: str | None) -> str | None:
    """The token of this user, from the environment; None for nobody, who has none. ConfigError when there is none."""
    if not login:
        return None
    password = os.environ.get(PASSWORD)
    if not password:
        raise ConfigError(f"--login without a token: set {PASSWORD}, or use ~/.netrc and no --login")
    return password


def refuse_password_alone(known: Options, given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """End the process, status 2, for --password without --login: it would be ignored. The variable may stand alone."""
    if not given.login and known.flags(arguments).password is not None:
        known.parser.error("--password without --login: say whose it is, --login USER")


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
