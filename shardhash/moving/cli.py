"""``shardhash import`` and ``shardhash export``: the move from the stock server and back.

Reports go to standard output, progress and errors to standard error. Exit status 0: done, whatever the report says of
conflicts; 1: not done, and nothing has changed, or a server took no users of this client; 2: called wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shardhash.admin.arguments import existing_default, existing_folder
from shardhash.admin.cli import live_hint, say, telling
from shardhash.base import options
from shardhash.base.command_line import parser_of, run_command
from shardhash.base.cores import default_workers
from shardhash.base.options import Options
from shardhash.base.secrets import PASSWORD, password_of
from shardhash.base.text import counted
from shardhash.base.timestamps import to_iso
from shardhash.moving.report import describe, to_json
from shardhash.moving.times import name_of_zone, to_zone

if TYPE_CHECKING:
    from shardhash.moving.importing import Wish
    from shardhash.moving.schema import SourceReport

NOTHING_CHANGED = "interrupted; nothing has changed"
LIVE_TIMEOUT = 120.0
"""Seconds that a server may take for one batch."""

IMPORT = """\
Bring what BitBake's own server (bitbake-hashserv) has collected: mappings, outhash rows with their times and siginfo,
users whose tokens go on working, and the garbage collection in progress. The databases are only read, also while the
old server runs on them. What is there already stays, so importing twice changes nothing; it happens at once or not at
all.
"""
IMPORT_EXAMPLES = """\
SOURCE is the file or URL that the old server's --database (HASHSERVER_DB) names: hashserv.db, sqlite:///hashserv.db or
postgresql://USER@HOST/NAME. Of several the first wins where two give a task different unihashes; an outhash row keeps
its oldest time.

examples:
  shardhash import /var/lib/hashserv/hashserv.db --data /var/lib/shardhash
  shardhash import hashserv.db --address 127.0.0.1:8686      (a server that runs)
  shardhash import a.db b.db --data ./hashes --source-timezone Europe/Berlin --json
"""

EXPORT = """\
Write a database that BitBake's own server (bitbake-hashserv) serves as its own: the way back. Everything goes along but
the password of an administrator, which that server takes from its settings. The server of the data directory must be
stopped; of a running one, export a backup (shardhash backup).
"""
EXPORT_EXAMPLES = """\
examples:
  shardhash export hashserv.db --data /var/lib/shardhash
  shardhash export postgresql://joe@db.example.com/hashserv --data ./backup --timezone Europe/Berlin
"""


def import_(arguments: Sequence[str]) -> int:
    """``shardhash import``."""
    known = _import_options()
    given = known.parse(arguments)
    given.sources = given.sources or [name for name in [os.environ.get(options.DATABASE, "").strip()] if name]
    if not given.sources:
        known.parser.error("SOURCE is missing: the file or URL that the old server's --database (HASHSERVER_DB) names")
    from shardhash.moving.importing import Wish, import_into
    from shardhash.moving.reading import sqlite_path, to_source
    from shardhash.shard.directory.imported import note_imports
    from shardhash.shard.storage.filesystem import OsFileSystem

    if given.address is not None and any(word.partition("=")[0] == "--data" for word in arguments):
        known.parser.error("--data and --address are both given: import into a directory, or into a server that runs")

    def run() -> int:
        sources = [to_source(source, given.db_username, given.db_password) for source in given.sources]
        wish = Wish(sources, given.source_timezone, not given.no_users)
        if given.address is not None:
            reports = _import_live(given, wish)
        else:
            shards = given.workers or default_workers()
            reports = import_into(OsFileSystem(), given.data, shards, wish, telling())
            files = [path for path in map(sqlite_path, given.sources) if path is not None]
            with contextlib.suppress(OSError):  # then the next start says more than it need
                note_imports(OsFileSystem(), given.data, files, to_iso(time.time_ns() // 1000, "seconds"))
        if given.json:
            print(json.dumps(to_json(reports, name_of_zone(given.source_timezone))))
        else:
            print(describe(reports, name_of_zone(given.source_timezone)))
            if given.address is None:
                print(f"start the server on it: shardhash serve --data {shlex.quote(str(given.data))}")
        if refused := sum(report.users_refused for report in reports):
            say(
                f"shardhash import: {counted(refused, 'user was', 'users were')} left out, for the server does not let"
                " this client add users; import again with --login USER, who has @user-admin there, or with --no-users"
            )
            return 1
        return 0

    return run_command("import", run, interrupted=NOTHING_CHANGED, hint=_hint)


def _import_live(given: argparse.Namespace, wish: Wish) -> list[SourceReport]:
    from shardhash.client.blocking import create_client
    from shardhash.moving.live import import_live

    with create_client(
        given.address, given.login, password_of(given.login), timeout=LIVE_TIMEOUT, breaker=None
    ) as client:
        return import_live(client, wish, telling())


def export(arguments: Sequence[str]) -> int:
    """``shardhash export``."""
    known = _export_options()
    given = known.parse(arguments)
    from shardhash.admin.backup import source_of
    from shardhash.admin.restore import kept_still
    from shardhash.moving.exporting import export_from
    from shardhash.moving.writing import open_target
    from shardhash.shard.storage.filesystem import OsFileSystem

    def run() -> int:
        source = source_of(OsFileSystem(), given.data)
        with (
            kept_still(given.data),
            open_target(given.target, given.db_username, given.db_password, given.timezone) as target,
        ):
            done = export_from(source.fs, source.manifest.folders(given.data), target, telling(), until=source.time)
        if given.json:
            print(json.dumps({"target": target.name, **done.counts, "left_out": done.left_out}))
            return 0
        print(
            f"{target.name} holds {counted(done.counts['mappings'], 'mapping')},"
            f" {counted(done.counts['rows'], 'outhash row')}, {counted(done.counts['users'], 'user')} and"
            f" {counted(done.counts['config'], 'setting')}"
        )
        for text in done.left_out:
            print(f"left out: {text}")
        print(f"start the old server on it: bitbake-hashserv --database {shlex.quote(target.name)}")
        return 0

    return run_command("export", run, interrupted=NOTHING_CHANGED, hint=live_hint("export OUT --data DEST"))


def _export_options() -> Options:
    known = Options(parser_of("export", EXPORT, EXPORT_EXAMPLES, usage=None))
    known.parser.add_argument("target", metavar="OUT", help="a file that is not there yet, or a URL postgresql://...")
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        convert=existing_folder,
        default=existing_default,
        help=f"data directory of a stopped server, or a backup (default {options.DEFAULT_DATA}, as for serve)",
    )
    known.add(
        "--timezone",
        "SHARDHASH_SOURCE_TIMEZONE",
        metavar="ZONE",
        convert=to_zone,
        help="zone of the old server's machine, which writes local times into PostgreSQL (default: this machine's);"
        " files get UTC",
    )
    _add_database_options(known)
    known.switch("--json", help="print the report as one line of JSON")
    return known


def _import_options() -> Options:
    known = Options(parser_of("import", IMPORT, IMPORT_EXAMPLES, usage=None))
    known.parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="a database file or URL of the old server (default: what HASHSERVER_DB names)",
    )
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        convert=Path,
        default=options.served_data,
        help="the data directory to import into, a new one or that of a stopped server"
        f" (default {options.DEFAULT_DATA}, as for shardhash serve)",
    )
    known.add(
        "--address",
        metavar="ADDRESS",
        help="import into the server that runs there instead, while builds use it; it may be stopped and run again",
    )
    known.add(
        "--login",
        "SHARDHASH_LOGIN",
        metavar="USER",
        help=f"user at that server; needs @db-admin, and @user-admin for users to come along. The token is taken from"
        f" {PASSWORD}; without --login from ~/.netrc, if that names the address",
    )
    known.add(
        "--source-timezone",
        "SHARDHASH_SOURCE_TIMEZONE",
        metavar="ZONE",
        convert=to_zone,
        help="zone of times that say none, as the old server wrote until May 2025: Europe/Berlin, UTC, +02:00"
        " (default: this machine's)",
    )
    known.switch("--no-users", help="leave the users out")
    known.add(
        "--workers",
        "SHARDHASH_WORKERS",
        metavar="N",
        convert=options.whole(1, 256),
        help="for how many workers a new directory is made (default, as for shardhash serve: the cores but those of the"
        f" coordinators, here {default_workers()})",
    )
    _add_database_options(known)
    known.switch("--json", help="print the report as one line of JSON")
    return known


def _add_database_options(known: Options) -> None:
    known.add("--db-username", "HASHSERVER_DB_USERNAME", metavar="NAME", help="user at the database of a URL")
    known.add(
        "--db-password",
        "HASHSERVER_DB_PASSWORD",
        metavar="TEXT",
        help="that user's password; better by the variable or ~/.pgpass, for everyone sees command lines",
    )


def _hint(error: str) -> str:
    from shardhash.client.hints import advice

    return "; or import into the server that runs: --address" if "is in use by" in error else advice(error)
