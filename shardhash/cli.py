"""The command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run `shardhash`; its exit status."""
    parser = argparse.ArgumentParser(prog="shardhash")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--bind", action="append")
    serve.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    serve.add_argument("--data", type=Path)
    serve.add_argument("--memory", action="store_true")
    serve.add_argument("--read-only", action="store_true")
    serve.add_argument("--sync", default="always")
    serve.add_argument("--log", default="INFO")
    serve.add_argument("--anon-perms")
    serve.add_argument("--admin-user")
    serve.add_argument("--admin-password")
    options = parser.parse_args(arguments)
    from shardhash.coordinator.server import run
    from shardhash.coordinator.settings import Bind, Settings
    from shardhash.wire.address import parse_bind

    binds = []
    for text in options.bind or ["unix://./hashserve.sock"]:
        address, rules = parse_bind(text)
        from shardhash.coordinator.permissions import ANONYMOUS_DEFAULT, parse_anonymous

        anon = rules.get("anon", options.anon_perms)
        binds.append(
            Bind(
                address,
                "read-only" in rules or options.read_only,
                ANONYMOUS_DEFAULT if anon is None else parse_anonymous(anon),
            )
        )
    return run(
        Settings(
            tuple(binds),
            options.workers,
            options.data,
            options.sync,
            log_level=options.log,
            admin_user=options.admin_user,
            admin_password=options.admin_password,
        )
    )
