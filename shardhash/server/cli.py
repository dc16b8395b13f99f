"""``shardhash serve``: from its command line and environment to `Settings`, and into `server.run`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from shardhash.base import options
from shardhash.base.cores import usable_cores
from shardhash.base.options import DATABASE, DEFAULT_DATA, Options
from shardhash.coordinator import permissions
from shardhash.coordinator.bind import Bind, TlsFiles
from shardhash.coordinator.origins import Browsers
from shardhash.errors import ConfigError, DamageError
from shardhash.link.worker_options import KEEP_SNAPSHOTS, SNAPSHOT_BYTES, SNAPSHOT_INTERVAL, SYNC_INTERVAL
from shardhash.server.reference_database import check_database, describe_database
from shardhash.server.settings import Settings
from shardhash.shard.directory.manifest import read_manifest
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.stores.chained.settings import UpstreamSettings
from shardhash.wire.address import parse_address, parse_bind
from shardhash.wire.connection import Limits

DEFAULT_BIND = "unix://./hashserve.sock"
MAX_WORKERS = 256
SECRET = "SHARDHASH_ADMIN_PASSWORD"
SECRETS = (SECRET, "HASHSERVER_ADMIN_PASSWORD")
CLIENT_VARIABLES = (
    *(f"SHARDHASH_{name}" for name in ("ADDRESS", "LOGIN", "PASSWORD", "NETRC_HOSTS", "BECOME", "TIMEOUT", "JSON")),
    "SHARDHASH_CLIENT_CERT",
    "SHARDHASH_CLIENT_KEY",
    "SHARDHASH_VENV",  # of ops/test and ops/demo
)
"""Variables with our prefix that are not the server's."""

DESCRIPTION = """\
Serve hash equivalence to BitBake builds: a coordinator that clients connect to, and worker processes that each keep
a part of the hashes. It prints `listening on ADDRESS` for each address once it answers there, logs to standard error,
and stops in order on SIGTERM, SIGINT and SIGQUIT. SIGHUP has TLS certificates loaded again.

Each option can also be given by the variables in [ ] behind it; the flag wins, then the first of them that is set.
"""
EXAMPLES = """\
addresses:
  unix://PATH, HOST:PORT, :PORT (all interfaces), [V6]:PORT, ws://HOST:PORT; port 0 takes any free one.
  wss://HOST:PORT and, for clients of shardhash, tls://HOST:PORT are encrypted, and need --tls-cert.
  Rules for those who come in by an address follow it, each after a comma:
    read-only                   nothing can be stored or removed there
    anon=@read+@report          permissions of those who do not log in (@none: they must log in)

examples:
  shardhash serve
        for builds on this machine; BB_HASHSERVE = "unix:///the/folder/hashserve.sock"
  shardhash serve --bind :8686 --data /var/lib/shardhash --anon-perms '@read @report'
        for a trusted network
  shardhash serve --bind ws://10.0.0.1:8686 --bind ws://:8484,read-only,anon=@read --data /var/lib/shardhash
        builders write by the private address, everyone may read by the other
  shardhash serve --bind ws://127.0.0.1:8686,anon=@none --admin-user admin --admin-password-file /etc/shardhash/admin
        users only, behind a TLS proxy; create them with `shardhash client new-user`
  shardhash serve --bind wss://:443 --tls-cert /etc/shardhash/chain.pem --tls-key /etc/shardhash/key.pem
        encrypted by the server itself; certificates are loaded again when the files change
  shardhash serve --bind :8686 --upstream wss://hash.example.com/ws
        answer from here, and from there what is not known here
"""


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash serve`; its exit status."""
    options.hide_secret(["--admin-password"], SECRET, arguments)
    options.hide_secret(["--db-password"], "HASHSERVER_DB_PASSWORD", arguments)
    settings = read_settings(arguments, os.environ)
    for variable in (*SECRETS, "HASHSERVER_DB_PASSWORD"):
        os.environ.pop(variable, None)  # it is no business of the workers
    from shardhash.server.start import run  # takes a quarter of a second, which --help need not

    return run(settings)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a server. Ends the process, status 2, with a hint when they are wrong."""
    known = _options()
    given = known.parse(arguments, environment)
    try:
        return _settings(given, known.unknown_variables(environment, CLIENT_VARIABLES))
    except ConfigError as error:
        known.parser.error(str(error))


def _options() -> Options:
    known = Options(
        argparse.ArgumentParser(
            "shardhash serve",
            usage="shardhash serve [OPTIONS]",
            description=DESCRIPTION,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # hide_secret looks for whole names
        )
    )
    _add_listening(known)
    _add_tls(known)
    _add_data(known)
    _add_users(known)
    _add_upstream(known)
    return known


def _add_listening(known: Options) -> None:
    known.group("listening")
    known.add(
        "--bind",
        "SHARDHASH_BIND",
        "HASHSERVER_BIND",
        metavar="ADDRESS[,RULE]",
        convert=_checked_bind,
        default=[DEFAULT_BIND],
        repeatable=True,
        short="-b",
        help=f"listen here; may be given several times, in a variable parted by spaces (default {DEFAULT_BIND})",
    )
    known.switch(
        "--read-only",
        "SHARDHASH_READ_ONLY",
        "HASHSERVER_READ_ONLY",
        short="-r",
        help="nothing can be stored, by any address",
    )
    known.add(
        "--http",
        "SHARDHASH_HTTP",
        metavar="[HOST:]PORT[,RULE]",
        convert=_checked_http,
        default=None,
        help="answer browsers and Prometheus here, too (/metrics, /readyz), on this machine unless HOST says otherwise;"
        " addresses ws:// answer them anyway. Try 127.0.0.1:9464",
    )
    known.switch("--reuseport", help="accepted for units of the stock server; workers share one address here anyway")
    known.add(
        "--max-message",
        "SHARDHASH_MAX_MESSAGE",
        metavar="SIZE",
        convert=options.size,
        default=Limits().message,
        help="largest request of a client (default 64M)",
    )
    known.add(
        "--log",
        "SHARDHASH_LOG",
        "HASHSERVER_LOG_LEVEL",
        metavar="LEVEL",
        convert=options.choice(
            "DEBUG",
            "INFO",
            "WARNING",
            "ERROR",
            "CRITICAL",
            also={"WARN": "WARNING", "FATAL": "CRITICAL", "NOTSET": "DEBUG"},
        ),
        default="INFO",
        short="-l",
        help="minimum log level: DEBUG, INFO, WARNING, ERROR or CRITICAL (default INFO)",
    )


def _add_tls(known: Options) -> None:
    known.group("encryption of wss:// and tls:// addresses; the files are loaded again when they change, and on SIGHUP")
    for flag, text in (
        ("--tls-cert", "the server's certificate, PEM, with the chain behind it"),
        ("--tls-key", "its key, PEM, if it is not in the same file"),
        (
            "--tls-client-ca",
            "clients must have a certificate of an authority in this file; its common name may be that of a user",
        ),
    ):
        known.add(flag, _variable(flag), metavar="FILE", convert=Path, help=text)


def _add_data(known: Options) -> None:
    known.group("data")
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        help=f"keep everything in this folder, made if need be (default {DEFAULT_DATA}, or"
        " beside the file that --database names)",
    )
    known.add(
        "--database",
        "SHARDHASH_DATABASE",
        DATABASE,
        metavar="FILE",
        short="-d",
        help="the file of the stock server; it is not read, data goes to FILE.shardhash unless --data says otherwise",
    )
    for flag in ("--db-username", "--db-password"):
        known.add(
            flag, f"HASHSERVER_{flag[2:].upper().replace('-', '_')}", help="accepted for units of the stock server"
        )
    known.switch("--memory", "SHARDHASH_MEMORY", help="keep everything in memory only; it is lost at the end")
    known.add(
        "--workers",
        "SHARDHASH_WORKERS",
        metavar="N",
        convert=options.whole(1, MAX_WORKERS),
        default=None,
        help="worker processes, each with its part of the hashes; another number than before moves all to new files"
        f" first (default: what DIR has; for a new one the cores but one, here {_workers_of_this_machine()})",
    )
    known.add(
        "--sync",
        "SHARDHASH_SYNC",
        metavar="always|interval|off",
        convert=options.choice("always", "interval", "off"),
        default="always",
        help="when reports are written to the disk: before they are acknowledged, so that none is ever lost"
        " (default), every --sync-interval, or when the system likes",
    )
    for flag, text, default in (
        (
            "--sync-interval",
            "most that a power cut costs with --sync interval (default 1s)",
            SYNC_INTERVAL,
        ),
        (
            "--snapshot-interval",
            "write a snapshot this often, for quick starts (default 1h)",
            SNAPSHOT_INTERVAL,
        ),
        ("--shard-timeout", "how long a worker may take to answer before its request fails (default 30s)", 30.0),
    ):
        known.add(flag, _variable(flag), metavar="TIME", convert=options.seconds, default=default, help=text)
    known.add(
        "--snapshot-bytes",
        "SHARDHASH_SNAPSHOT_BYTES",
        metavar="SIZE",
        convert=options.size,
        default=SNAPSHOT_BYTES,
        help="write one too when a worker's log has grown by this much (default 256M)",
    )
    known.add(
        "--keep-snapshots",
        "SHARDHASH_KEEP_SNAPSHOTS",
        metavar="K",
        convert=options.whole(1, 1000),
        default=KEEP_SNAPSHOTS,
        help="keep so many snapshots and the logs between them, for restoring an earlier time (default 2)",
    )


def _add_users(known: Options) -> None:
    known.group("users")
    known.add(
        "--anon-perms",
        "SHARDHASH_ANON_PERMS",
        "HASHSERVER_ANON_PERMS",
        metavar="PERMS",
        convert=permissions.parse_anonymous,
        default=permissions.ANONYMOUS_DEFAULT,
        empty=True,
        help="what those may do who do not log in, parted by commas or spaces: @read @report @db-admin, or @none"
        " (default '@read @report @db-admin')",
    )
    known.add(
        "--allow-origin",
        "SHARDHASH_ALLOW_ORIGIN",
        metavar="ORIGIN",
        convert=_origin,
        default=[],
        repeatable=True,
        help="let web pages of this origin (https://builds.example.com) connect; others are refused",
    )
    known.add(
        "--allow-host",
        "SHARDHASH_ALLOW_HOST",
        metavar="NAME",
        convert=str.lower,
        default=[],
        repeatable=True,
        help="a name by which browsers reach this server, beside its addresses and this machine's name",
    )
    known.add(
        "--admin-user",
        "SHARDHASH_ADMIN_USER",
        "HASHSERVER_ADMIN_USER",
        metavar="NAME",
        help="give this user all permissions and the password below. This is done once for a password: a user that was"
        " deleted or got a token since stays so until another password is configured",
    )
    known.add(
        "--admin-password-file",
        "SHARDHASH_ADMIN_PASSWORD_FILE",
        metavar="FILE",
        help="the first line of this file is that user's password",
    )
    known.add(
        "--admin-password",
        *SECRETS,
        metavar="PASSWORD",
        help="the password itself; better from a file or a variable, for shells remember command lines (it is"
        " kept out of ps: the server starts itself anew without it)",
    )


def _add_upstream(known: Options) -> None:
    known.group("upstream")
    known.add(
        "--upstream",
        "SHARDHASH_UPSTREAM",
        "HASHSERVER_UPSTREAM",
        metavar="ADDRESS",
        convert=parse_address,
        short="-u",
        help="ask this server for what is not known here, and remember what it says",
    )
    known.add("--upstream-user", "SHARDHASH_UPSTREAM_USER", metavar="NAME", help="log in there as this user")
    known.add(
        "--upstream-token-file",
        "SHARDHASH_UPSTREAM_TOKEN_FILE",
        metavar="FILE",
        help="the first line of this file is that user's token (without a user, ~/.netrc is looked at)",
    )
    for flag, text, default in (
        ("--upstream-timeout", "it counts as down, and is left alone for a while, after this (default 5s)", 5.0),
        ("--upstream-misses", "what it does not know is not asked again for so long (default 60s)", 60.0),
    ):
        known.add(flag, _variable(flag), metavar="TIME", convert=options.seconds, default=default, help=text)


def _variable(flag: str) -> str:
    return "SHARDHASH_" + flag.lstrip("-").replace("-", "_").upper()


def _origin(text: str) -> str:
    """An origin as browsers write it, lower case."""
    parts = urlsplit(text.lower().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
        raise ConfigError(f"{text!r} is no origin: write https://HOST or https://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}"


def _checked_bind(text: str) -> str:
    _bind(text, False, permissions.ANONYMOUS_DEFAULT)
    return text


def _checked_http(text: str) -> str:
    _http(text, False, permissions.ANONYMOUS_DEFAULT)
    return text


def _http(text: str, read_only: bool, anon_perms: frozenset[str]) -> Bind:
    """Where HTTP is answered: a port alone means this machine."""
    if text.partition(",")[0].strip().isdecimal():
        text = f"127.0.0.1:{text.strip()}"
    bind = _bind(text, read_only, anon_perms)
    if bind.address.kind != "tcp":
        raise ConfigError(f"--http {text!r} is no HOST:PORT; write 127.0.0.1:9464, or 9464 for the same")
    return bind


def _bind(text: str, read_only: bool, anon_perms: frozenset[str]) -> Bind:
    """A bind address with the rules of its own, else those of the whole server."""
    address, rules = parse_bind(text)
    if "anon" in rules:
        anon_perms = permissions.parse_anonymous(rules["anon"])
    return Bind(address, read_only or "read-only" in rules, anon_perms)


def _settings(given: argparse.Namespace, remarks: Sequence[str]) -> Settings:
    data, notices = _data(given)
    return Settings(
        binds=tuple(_bind(text, given.read_only, given.anon_perms) for text in given.bind),
        workers=given.workers or _workers_of(data),
        data=data,
        sync=given.sync,
        sync_interval=given.sync_interval,
        snapshot_interval=given.snapshot_interval,
        snapshot_bytes=given.snapshot_bytes,
        keep_snapshots=given.keep_snapshots,
        limits=Limits(message=given.max_message),
        shard_timeout=given.shard_timeout,
        upstream=_upstream(given),
        admin_user=given.admin_user,
        admin_password=_admin_password(given),
        browsers=Browsers(frozenset(given.allow_origin), frozenset(given.allow_host)),
        tls=_tls(given),
        http=None if given.http is None else _http(given.http, given.read_only, given.anon_perms),
        log_level=given.log,
        notices=notices,
        remarks=(*remarks, *_stock_remarks(given, data)),
    )


def _workers_of(data: Path | None) -> int:
    """The workers when no number is given: those that the data directory was made for, lest it be moved around."""
    try:
        manifest = read_manifest(OsFileSystem(), data) if data is not None else None
    except DamageError:
        manifest = None  # the start says what is wrong with it
    return manifest.shards if manifest is not None else _workers_of_this_machine()


def _workers_of_this_machine() -> int:
    """The cores but one, which the coordinator keeps busy: on two, one worker takes 1.6 times the reports of two."""
    return max(1, usable_cores() - 1)


def _data(given: argparse.Namespace) -> tuple[Path | None, tuple[str, ...]]:
    """The data directory, None for memory only, and what is to be said about it."""
    database = check_database(given.database, f"--database or {DATABASE}") if given.database else None
    if given.memory:
        if given.data is not None:
            raise ConfigError(f"--memory keeps nothing, but data is to be kept in {given.data}; give one of them")
        return None, ("everything is kept in memory only and lost at the end (--memory)",)
    data = Path(given.data) if given.data is not None else options.default_data(database)
    return data, ()


def _stock_remarks(given: argparse.Namespace, data: Path | None) -> list[str]:
    """What to tell those who moved their settings here from the stock server."""
    remarks = []
    if given.database and (found := describe_database(Path(given.database))) is not None:
        remarks.append(f"{found}; it is left as it is, and nothing in it is served here. Data is kept in {data}")
    if given.db_username or given.db_password:
        remarks.append("--db-username and --db-password are for databases, which shardhash does not use")
    return remarks


def _upstream(given: argparse.Namespace) -> UpstreamSettings | None:
    if given.upstream is None:
        if given.upstream_user or given.upstream_token_file:
            raise ConfigError("an upstream user or token is given, but no upstream (--upstream)")
        return None
    return UpstreamSettings(
        given.upstream,
        given.upstream_user,
        _first_line("--upstream-token-file", given.upstream_token_file),
        limit=given.upstream_timeout,
        remember_misses=given.upstream_misses,
    )


def _tls(given: argparse.Namespace) -> TlsFiles | None:
    if given.tls_cert is None:
        if given.tls_key is not None or given.tls_client_ca is not None:
            raise ConfigError("--tls-key or --tls-client-ca is given, but no certificate (--tls-cert)")
        return None
    return TlsFiles(given.tls_cert, given.tls_key, given.tls_client_ca)


def _admin_password(given: argparse.Namespace) -> str | None:
    if given.admin_password is not None and given.admin_password_file is not None:
        raise ConfigError("--admin-password and --admin-password-file are both given; one is enough")
    if given.admin_password is not None:
        return str(given.admin_password)
    return _first_line("--admin-password-file", given.admin_password_file)


def _first_line(flag: str, name: str | None) -> str | None:
    """The secret in a file, without the end of its line. ConfigError if there is none."""
    if name is None:
        return None
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: cannot read {name}: {error}") from None
    if not lines or not lines[0]:
        raise ConfigError(f"{flag}: the first line of {name} is empty")
    return lines[0]
