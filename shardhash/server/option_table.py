"""The settings of a server: one table, from which flags, variables, keys of a file, help and completion follow.

To add one, add a line to the table, a field to `Settings`, and use it in `settings_of` (server/cli.py).
One that a running server can take over is marked `reloadable`, and something must apply it (server/reload.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shardhash.base import options
from shardhash.base.cores import FEW_CORES, MOST_COORDINATORS, coordinators_for, default_workers, usable_cores
from shardhash.base.log_format import FORMATS
from shardhash.base.options import DATABASE, DEFAULT_DATA, Option, option, switch
from shardhash.base.settings_file import DEFAULT_FILE, VARIABLE
from shardhash.coordinator import permissions
from shardhash.link.worker_options import KEEP_SNAPSHOTS, SNAPSHOT_BYTES, SNAPSHOT_INTERVAL, SYNC_INTERVAL
from shardhash.server import binds
from shardhash.server.upstream_options import UPSTREAM
from shardhash.stores.answers import ANSWER_CACHE, LEASE

DEFAULT_BIND = "unix://./hashserve.sock"
MAX_WORKERS = 256
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


_LISTENING = (
    option(
        "--config",
        VARIABLE,
        metavar="FILE",
        in_file=False,
        help="settings in TOML, named like the options: bind = [':8686'], read-only = true; a flag and a variable win"
        f" over it (default {DEFAULT_FILE}, if it is there)",
    ),
    option(
        "--bind",
        "SHARDHASH_BIND",
        "HASHSERVER_BIND",
        metavar="ADDRESS[,RULE]",
        convert=binds.check_bind,
        default=[DEFAULT_BIND],
        repeatable=True,
        short="-b",
        reloadable=True,
        help="listen here; may be given several times, in a variable separated by spaces",
    ),
    switch(
        "--read-only",
        "SHARDHASH_READ_ONLY",
        "HASHSERVER_READ_ONLY",
        short="-r",
        reloadable=True,
        help="refuse everything that stores or deletes, on every address",
    ),
    option(
        "--http",
        "SHARDHASH_HTTP",
        metavar="[HOST:]PORT[,RULE]",
        convert=binds.check_http,
        reloadable=True,
        help="answer browsers and Prometheus here, too (/metrics, /readyz), on this machine unless HOST says otherwise;"
        " addresses ws:// answer them anyway, unless there are several --coordinators. Try 127.0.0.1:9464",
    ),
    switch(
        "--reuseport",
        "HASHSERVER_REUSEPORT",
        in_file=False,
        help="accepted and ignored, for units of the stock server; workers share one address here anyway",
    ),
    option(
        "--max-message",
        "SHARDHASH_MAX_MESSAGE",
        metavar="SIZE",
        convert=options.size,
        reloadable=True,
        help="largest request of any client (default 64M, 8M of those without @db-admin); see --limit message=SIZE",
    ),
    option(
        "--limit",
        "SHARDHASH_LIMIT",
        metavar="NAME=VALUE",
        convert=binds.check_limit,
        default=[],
        repeatable=True,
        reloadable=True,
        help="change a limit of what clients may take; may be given several times. The names are at the end",
    ),
    option(
        "--trust-proxy",
        "SHARDHASH_TRUST_PROXY",
        metavar="ADDRESS",
        convert=binds.check_proxy,
        default=[],
        repeatable=True,
        reloadable=True,
        help="a proxy in front of the server: an IP address, a network (10.0.0.0/8), or unix. What it tells of its"
        " clients counts, by a PROXY header (version 1 or 2) at any address, or by X-Forwarded-For or Forwarded at ws://"
        " and wss:// ones: limits, logs, page and audit trail then name the client. Give several times for several",
    ),
    switch(
        "--public",
        "SHARDHASH_PUBLIC",
        reloadable=True,
        help="start from the limits for a server that anyone reaches, instead of a team's",
    ),
    option(
        "--log",
        "SHARDHASH_LOG",
        "HASHSERVER_LOG_LEVEL",
        metavar="LEVEL",
        convert=options.choice(*LEVELS, also={"WARN": "WARNING", "FATAL": "CRITICAL", "NOTSET": "DEBUG"}),
        default="INFO",
        short="-l",
        values=LEVELS,
        reloadable=True,
        help=f"minimum log level: {', '.join(LEVELS[:-1])} or {LEVELS[-1]}",
    ),
    option(
        "--log-format",
        "SHARDHASH_LOG_FORMAT",
        metavar="FORMAT",
        convert=options.choice(*FORMATS),
        default="text",
        values=FORMATS,
        help="text, for people; logfmt, key=value; or json, an object a line. In systemd's journal text and logfmt have"
        " its priorities and no times",
    ),
    option(
        "--slow",
        "SHARDHASH_SLOW",
        metavar="TIME",
        convert=options.seconds,
        default=None,
        help="log requests, and blocks of stream lines, that take this long, such as 100ms",
    ),
)

_TLS = (
    option(
        "--tls-cert",
        "SHARDHASH_TLS_CERT",
        metavar="FILE",
        convert=Path,
        reloadable=True,
        help="the server's certificate, PEM, with the chain behind it",
    ),
    option(
        "--tls-key",
        "SHARDHASH_TLS_KEY",
        metavar="FILE",
        convert=Path,
        reloadable=True,
        help="its key, PEM, if it is not in the same file",
    ),
    option(
        "--tls-client-ca",
        "SHARDHASH_TLS_CLIENT_CA",
        metavar="FILE",
        convert=Path,
        reloadable=True,
        help="clients must have a certificate of an authority in this file; its common name may be that of a user",
    ),
)

_DATA = (
    option(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        help=f"keep everything in this folder, made if need be (default {DEFAULT_DATA}, or"
        " beside the file that --database names)",
    ),
    option(
        "--store",
        "SHARDHASH_STORE",
        metavar="URL",
        secret=True,
        help="keep everything in a PostgreSQL database, which any number of servers may share, instead of in a folder:"
        " postgresql://USER@HOST/DATABASE, with its password in ~/.pgpass or PGPASSFILE; shardhash migrate makes the"
        " tables",
    ),
    option(
        "--read-replica",
        "SHARDHASH_READ_REPLICA",
        metavar="URL",
        secret=True,
        help="for a public, read-only server on --store: ask this standby of the database for lookups instead, so that"
        " strangers are no load for builds. What was just reported may be unknown here, and what was just removed still"
        " be known, for as long as the standby is behind; name one standby, not several that take turns",
    ),
    option(
        "--answer-lease",
        "SHARDHASH_ANSWER_LEASE",
        metavar="TIME",
        convert=options.seconds,
        default=LEASE,
        help="how long this server answers from its --answer-cache while it hears nothing from the database of --store;"
        " if it freezes or is cut off, a removal at another server waits that long, at most 60s",
    ),
    option(
        "--database",
        "SHARDHASH_DATABASE",
        DATABASE,
        metavar="FILE",
        short="-d",
        help="the file of the stock server; it is not read, data goes to FILE.shardhash unless --data says otherwise",
    ),
    option(
        "--db-username",
        "HASHSERVER_DB_USERNAME",
        in_file=False,
        help="accepted and ignored, for units of the stock server",
    ),
    option(
        "--db-password",
        "HASHSERVER_DB_PASSWORD",
        in_file=False,
        secret=True,
        help="accepted and ignored, for units of the stock server",
    ),
    switch("--memory", "SHARDHASH_MEMORY", help="keep everything in memory only; it is lost at the end"),
    option(
        "--workers",
        "SHARDHASH_WORKERS",
        metavar="N",
        convert=options.whole(1, MAX_WORKERS),
        help="worker processes, each with its part of the hashes; another number than before moves all to new files"
        f" first (default: what DIR has; for a new one the cores that the coordinators leave, here"
        f" {default_workers()})",
    ),
    option(
        "--coordinators",
        "SHARDHASH_COORDINATORS",
        metavar="K",
        convert=options.whole(1, 64),
        help=f"processes that answer clients (default: one up to {FEW_CORES} cores, else a third of them,"
        f" {MOST_COORDINATORS} at most, here {coordinators_for(usable_cores())}; one with --store, --upstream,"
        " --public, a --limit of peer_ or user_, or ws://; `shardhash config` says why). Each of several has a part of"
        " every limit but for the defaults of one host or user, and --http alone answers page, health and metrics",
    ),
    option(
        "--sync",
        "SHARDHASH_SYNC",
        metavar="always|interval|off",
        convert=options.choice("always", "interval", "off"),
        default="always",
        values=("always", "interval", "off"),
        help="when reports are written to the disk: before they are acknowledged, so that none is ever lost"
        " (default), every --sync-interval, or when the system likes",
    ),
    option(
        "--sync-interval",
        "SHARDHASH_SYNC_INTERVAL",
        metavar="TIME",
        convert=options.seconds,
        default=SYNC_INTERVAL,
        help="with --sync interval: how many seconds of reports a power cut may lose",
    ),
    option(
        "--snapshot-interval",
        "SHARDHASH_SNAPSHOT_INTERVAL",
        metavar="TIME",
        convert=options.seconds,
        default=SNAPSHOT_INTERVAL,
        help="write a snapshot this often, for quick starts",
    ),
    option(
        "--shard-timeout",
        "SHARDHASH_SHARD_TIMEOUT",
        metavar="TIME",
        convert=options.seconds,
        default=30.0,
        help="how long a worker, or the database, may take to answer before its request fails",
    ),
    option(
        "--answer-cache",
        "SHARDHASH_ANSWER_CACHE",
        metavar="SIZE",
        convert=options.size_or_none,
        default=ANSWER_CACHE,
        help="memory for answers to small lookups, so that workers, or a database, need not be asked again, 0 for none;"
        " each of several coordinators has as much",
    ),
    option(
        "--snapshot-bytes",
        "SHARDHASH_SNAPSHOT_BYTES",
        metavar="SIZE",
        convert=options.size,
        default=SNAPSHOT_BYTES,
        help="also write a snapshot when a worker's log has grown by this much",
    ),
    option(
        "--keep-snapshots",
        "SHARDHASH_KEEP_SNAPSHOTS",
        metavar="K",
        convert=options.whole(1, 1000),
        default=KEEP_SNAPSHOTS,
        help="number of snapshots to keep, with the logs between them, to restore an earlier time",
    ),
)

_USERS = (
    option(
        "--anon-perms",
        "SHARDHASH_ANON_PERMS",
        "HASHSERVER_ANON_PERMS",
        metavar="PERMS",
        convert=permissions.parse_anonymous,
        default=permissions.ANONYMOUS_DEFAULT,
        empty=True,
        words=True,
        reloadable=True,
        help="what those may do who do not log in, separated by commas or spaces: @read @report @db-admin, or @none"
        " (default '@read @report @db-admin'; '@read @report' at addresses that others than this machine reach)",
    ),
    option(
        "--allow-origin",
        "SHARDHASH_ALLOW_ORIGIN",
        metavar="ORIGIN",
        convert=binds.parse_origin,
        default=[],
        repeatable=True,
        help="let web pages of this origin (https://builds.example.com) connect; others are refused",
    ),
    option(
        "--allow-host",
        "SHARDHASH_ALLOW_HOST",
        metavar="NAME",
        convert=str.lower,
        default=[],
        repeatable=True,
        help="a name by which browsers reach this server, beside its addresses and this machine's name",
    ),
    option(
        "--admin-user",
        "SHARDHASH_ADMIN_USER",
        "HASHSERVER_ADMIN_USER",
        metavar="NAME",
        help="give this user all permissions and the password below. This is done once for a password: a user that was"
        " deleted or got a token since stays so until another password is configured",
    ),
    option(
        "--admin-password-file",
        "SHARDHASH_ADMIN_PASSWORD_FILE",
        metavar="FILE",
        help="the first line of this file is that user's password",
    ),
    option(
        "--admin-password",
        "SHARDHASH_ADMIN_PASSWORD",
        "HASHSERVER_ADMIN_PASSWORD",
        metavar="PASSWORD",
        secret=True,
        help="the password itself; better from a file or a variable, for shells remember command lines (it is"
        " kept out of ps: the server starts itself anew without it)",
    ),
)

TABLE: Mapping[str, tuple[Option, ...]] = {
    "listening": _LISTENING,
    "encryption of wss:// and tls:// addresses; the files are loaded again when they change, and on SIGHUP": _TLS,
    "data": _DATA,
    "users": _USERS,
    "upstream": UPSTREAM,
}
"""Every setting, under the titles of --help."""

SECRETS = tuple(one for group in TABLE.values() for one in group if one.secret)
