"""``shardhash migrate`` and ``shardhash copy``: the tables of a database, and what is in them.

Exit status 0: done; 1: not done, and nothing has changed; 2: called wrongly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shardhash.base.command_line import parser_of, run_command
from shardhash.base.options import Options, whole
from shardhash.base.secrets import hide_secret
from shardhash.errors import ConfigError

STORE = ("--store", "SHARDHASH_STORE")
URL_HELP = "postgresql://USER@HOST/DATABASE, as libpq takes it; better no password in it (PGPASSFILE, ~/.pgpass)"

MIGRATE = """\
Make the tables of shardhash in a PostgreSQL database, in the schema "shardhash", or bring them to what this version
needs. It happens at once or not at all, and twice does no harm. Stop the servers of older versions first: they refuse
newer tables.
"""
MIGRATE_EXAMPLES = """\
The user needs the right to create a schema in the database. Password, TLS and more follow the rules of libpq:
PGPASSFILE, PGSSLMODE, ?sslmode=verify-full. Several hosts may be given; the one that takes writes is used.

examples:
  shardhash migrate --store postgresql://shardhash@db.example.com/shardhash
  SHARDHASH_STORE='postgresql://shardhash@db1,db2/shardhash?sslmode=verify-full' shardhash migrate
"""


def migrate(arguments: Sequence[str]) -> int:
    """``shardhash migrate``."""
    hide_secret([STORE[0]], STORE[1], arguments)
    known = Options(parser_of("migrate", MIGRATE, MIGRATE_EXAMPLES))
    known.add(*STORE, metavar="URL", help=f"the database: {URL_HELP}", secret=True)
    given = known.parse(arguments)
    if given.store is None:
        known.parser.error("name the database with --store URL or SHARDHASH_STORE")

    def run() -> int:
        try:
            from shardhash.stores.postgresql.schema import migrate as make_tables
        except ImportError:
            raise missing_extra() from None
        before, after = asyncio.run(make_tables(given.store))
        if before == after:
            print(f"the tables have version {after} already; nothing was changed")
        else:
            print(f"the tables have version {after} now (before: {before or 'none'})")
        return 0

    return run_command("migrate", run)


COPY = """\
Copy everything that shardhash keeps (mappings, outhash rows with siginfo, the days of their last use, users with their
tokens, settings, the marks of a garbage collection in progress) from a data directory to a PostgreSQL database or back,
or between two of a kind. The copy is read back and compared before it counts; it is made at once or not at all.
"""
COPY_EXAMPLES = """\
FROM and TO are folders or URLs. A folder is that of a stopped server or a backup; a database may be in use, and is read
as of one moment. TO must be empty: a folder that is not there yet, or a database that shardhash migrate has just made.

examples:
  shardhash copy /var/lib/shardhash postgresql://shardhash@db.example.com/shardhash
  shardhash copy postgresql://shardhash@db.example.com/shardhash ./hashes --shards 4
"""


def copy(arguments: Sequence[str]) -> int:
    """``shardhash copy``."""
    known = Options(parser_of("copy", COPY, COPY_EXAMPLES, "FROM TO [OPTIONS]"))
    known.parser.add_argument("source", metavar="FROM", help="a data directory, a backup, or the URL of a database")
    known.parser.add_argument("target", metavar="TO", help="a new folder, or the URL of an empty database")
    known.add(
        "--shards",
        metavar="N",
        convert=whole(1, 256),
        help="number of shards of a new folder (default: as many as shardhash serve would make)",
    )
    given = known.parse(arguments)
    from shardhash.admin.cli import live_hint, telling
    from shardhash.base.cores import usable_cores
    from shardhash.database import copying

    def run() -> int:
        shards = given.shards or max(1, usable_cores() - 1)
        try:
            source, target = copying.place_of(given.source, shards), copying.place_of(given.target, shards)
        except ImportError:
            raise missing_extra() from None
        done = copying.copy(source, target, telling())
        print(f"copied {done.describe()}; read back and found the same: digest {done.text}")
        return 0

    return run_command("copy", run, hint=live_hint("copy DEST TO"))


def missing_extra() -> ConfigError:
    """What is told where psycopg is not installed."""
    return ConfigError("a store on PostgreSQL needs psycopg 3: pip install 'shardhash[postgresql]'")
