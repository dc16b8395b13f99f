"""``shardhash migrate``: the tables of a database.

Exit status 0: done; 1: not done, and nothing has changed; 2: called wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

from shardhash.base.options import Options
from shardhash.base.secrets import hide_secret
from shardhash.errors import ConfigError, ShardhashError

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
    known = _options("migrate", MIGRATE, MIGRATE_EXAMPLES)
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

    return _run("migrate", run)


def missing_extra() -> ConfigError:
    """What is told where psycopg is not installed."""
    return ConfigError("a store on PostgreSQL needs psycopg 3: pip install 'shardhash[postgresql]'")


def _options(name: str, description: str, examples: str) -> Options:
    return Options(
        argparse.ArgumentParser(
            f"shardhash {name}",
            usage=f"shardhash {name} [OPTIONS]",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )


def _run(name: str, work: Callable[[], int]) -> int:
    """The exit status of a command, its errors said."""
    try:
        return work()
    except (ShardhashError, OSError) as error:
        print(f"shardhash {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"shardhash {name}: interrupted", file=sys.stderr)
        return 130
