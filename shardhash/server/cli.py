"""``shardhash serve``: from its command line, environment and file to `Settings`, and into `server.run`."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardhash.base import options
from shardhash.base.command_line import parser_of
from shardhash.base.options import DATABASE, Option, Options, Value
from shardhash.base.secrets import hide_secret
from shardhash.base.settings_file import File, find_file
from shardhash.base.text import counted
from shardhash.coordinator import limits
from shardhash.coordinator.bind import TlsFiles
from shardhash.coordinator.origins import Browsers
from shardhash.errors import ConfigError
from shardhash.server.binds import parse_http, parse_rules
from shardhash.server.option_table import SECRETS, TABLE
from shardhash.server.reference_database import check_database, describe_database
from shardhash.server.settings import Configuration, Settings
from shardhash.server.sizing import choose_sizes
from shardhash.shard.directory.imported import time_of_import
from shardhash.stores.chained.settings import UpstreamSettings

OTHER_VARIABLES = (
    *(f"SHARDHASH_{name}" for name in ("ADDRESS", "LOGIN", "PASSWORD", "NETRC_HOSTS", "BECOME", "TIMEOUT", "JSON")),
    *(f"SHARDHASH_EDGE_{name}" for name in ("DATA", "SSTATE", "BIND", "IDLE", "NO_FORWARD")),
    "SHARDHASH_CLIENT_CERT",
    "SHARDHASH_CLIENT_KEY",
    "SHARDHASH_SNAPSHOT_TIMEOUT",
    "SHARDHASH_SOURCE_TIMEZONE",
    "SHARDHASH_TOP_ADDRESS",
    "SHARDHASH_TOP_INTERVAL",
    "SHARDHASH_VENV",  # of ops/test and ops/demo
)
"""Variables with our prefix that are not the server's."""

DESCRIPTION = """\
Serve hash equivalence to BitBake builds: a coordinator that clients connect to, and worker processes that each keep
a part of the hashes. It prints `listening on ADDRESS` for each address once it answers there, logs to standard error,
and stops in order on SIGTERM, SIGINT and SIGQUIT. On SIGHUP it reads the file of settings and TLS certificates again,
takes over the log level, the limits of messages and the rules of addresses, and says what needs a new start.

Each option can also be given by the variables in [ ] behind it, or by a line of a TOML file (--config); the flag wins,
then the first variable that is set, then the file. `shardhash config` shows what is in force, and where each value
comes from.
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

exit status:
  0 stopped in order, 1 it could not start or go on, 2 settings are wrong, 3 the data directory is damaged: see
  `shardhash verify`. A service manager that sets NOTIFY_SOCKET, WATCHDOG_USEC or LISTEN_FDS, as systemd does, is told
  when the server is ready, and sockets that it passes are used for the addresses of --bind.

limits for --limit NAME=VALUE, their defaults, those of --public where they are others, and what they are of:
"""
EXAMPLES += limits.describe() + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash serve`; its exit status."""
    hide_secrets(arguments)
    known = server_options("serve", DESCRIPTION, EXAMPLES)
    flags, environment = known.flags(arguments), dict(os.environ)
    told = _read(known, flags, environment)
    for secret in SECRETS:
        for variable in secret.variables:
            os.environ.pop(variable, None)  # the workers have no use for it
    from shardhash.server.reload import Reload
    from shardhash.server.start import run  # takes a quarter of a second, which --help need not

    return run(told.settings, Reload(told, known.all(), lambda: read_configuration(known, flags, environment)))


def hide_secrets(arguments: Sequence[str]) -> None:
    """Start this process anew if its command line shows a secret."""
    for secret in SECRETS:
        hide_secret([secret.flag], secret.variables[0], arguments)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a server. Ends the process, status 2, with a hint when they are wrong."""
    known = server_options("serve", DESCRIPTION, EXAMPLES)
    return _read(known, known.flags(arguments), environment).settings


def _read(known: Options, flags: argparse.Namespace, environment: Mapping[str, str]) -> Configuration:
    try:
        return read_configuration(known, flags, environment)
    except ConfigError as error:
        known.parser.error(str(error))


def read_configuration(known: Options, flags: argparse.Namespace, environment: Mapping[str, str]) -> Configuration:
    """What flags, environment, file and defaults say together. Raises ConfigError with everything that is wrong."""
    file = find_file(environment, flags.config)
    values = known.resolve(flags, environment, file)
    sources = {name: _source(known[name], found, file) for name, found in values.items() if found.value}
    _check_administrator(sources)
    remarks = [*known.unknown_variables(environment, OTHER_VARIABLES), *_ignored(sources)]
    given = argparse.Namespace(**{name: found.value for name, found in values.items()})
    return Configuration(values, settings_of(given, remarks, file))


def _source(one: Option, found: Value, file: File | None) -> str:
    """How a message calls what gave a value. Flags with a secret became variables (`hide_secrets`)."""
    if file is not None and found.source == file.name:
        return f"{file.place(one.key)}: {one.key}"
    return f"{one.flag} ({found.source})" if one.secret and found.source in one.variables else found.source


def server_options(command: str, description: str, epilog: str) -> Options:
    """The options of a server, for a command that takes them."""
    return Options(parser_of(command, description, epilog), TABLE)


def settings_of(given: argparse.Namespace, remarks: Sequence[str], file: File | None = None) -> Settings:
    """The settings that the values of all options make together. Raises ConfigError when they contradict each other."""
    data, notices = _data(given)
    sizes = choose_sizes(given, data)
    imported, not_imported = _stock_database(given, data)
    if file is not None:
        notices = (f"{counted(len(file.values), 'setting is', 'settings are')} in {file.name}", *notices)
    return Settings(
        binds=tuple(parse_rules(text, given.read_only, given.anon_perms) for text in given.bind),
        workers=sizes.workers,
        reasons=sizes.reasons,
        data=data,
        sync=given.sync,
        sync_interval=given.sync_interval,
        snapshot_interval=given.snapshot_interval,
        snapshot_bytes=given.snapshot_bytes,
        keep_snapshots=given.keep_snapshots,
        limits=limits.choose(
            given.limit,
            public=given.public,
            **({} if given.max_message is None else {"message": given.max_message, "guest_message": given.max_message}),
        ),
        shard_timeout=given.shard_timeout,
        coordinators=sizes.coordinators,
        answer_cache=given.answer_cache,
        store=given.store,
        read_replica=given.read_replica,
        answer_lease=given.answer_lease,
        upstream=_upstream(given),
        admin_user=given.admin_user,
        admin_password=_admin_password(given),
        browsers=Browsers(frozenset(given.allow_origin), frozenset(given.allow_host)),
        tls=_tls(given),
        http=None if given.http is None else parse_http(given.http, given.read_only, given.anon_perms),
        log_level=given.log,
        log_format=given.log_format,
        slow=given.slow,
        trust_proxies=tuple(given.trust_proxy),
        notices=(*notices, *sizes.notices(), *imported),
        remarks=(*remarks, *not_imported),
    )


def _data(given: argparse.Namespace) -> tuple[Path | None, tuple[str, ...]]:
    """The data directory, None for memory only, and what is to be said about it."""
    if given.store:
        _check_store(given)
        return None, ()
    database = check_database(given.database, f"--database or {DATABASE}") if given.database else None
    if given.memory:
        if given.data is not None:
            raise ConfigError(f"--memory keeps nothing, but data is to be kept in {given.data}; give one of them")
        return None, ("everything is kept in memory only and lost at the end (--memory)",)
    data = Path(given.data) if given.data is not None else options.default_data(database)
    return data, ()


def _check_store(given: argparse.Namespace) -> None:
    """Raise ConfigError for what a database has no use for."""
    for value, flag in ((given.memory, "--memory"), (given.data, "--data"), (given.workers, "--workers")):
        if value:
            raise ConfigError(f"--store keeps everything in a database, and {flag} says otherwise; give one of them")


def _stock_database(given: argparse.Namespace, data: Path | None) -> tuple[list[str], list[str]]:
    """Notices and warnings about the stock server's file, for those who moved their settings here."""
    if given.store or not given.database:
        return [], []
    path = Path(given.database)
    if data is not None and (when := time_of_import(data, path)):
        return [f"{path} of the stock server was imported into {data} at {when}; it is not read any more"], []
    found = describe_database(path)
    if found is None:
        return [], []
    command = shlex.join(["shardhash", "import", given.database, "--data", str(data)])
    bring = f"to bring what is in it, stop this server and: {command}" if data else "nothing in it is served here"
    return [], [f"{found}; it is left as it is. Data is kept in {data or 'memory'}; {bring}"]


def _ignored(sources: Mapping[str, str]) -> list[str]:
    """What to tell those who give the user of a database; `sources` of the options that were given."""
    given = " and ".join(sources[name] for name in ("db_username", "db_password") if name in sources)
    why = "ignored here, only `shardhash import` and `export` take that; the database of --store has its user in the"
    return [f"{given}: {why} URL and its password in ~/.pgpass or PGPASSFILE"] if given else []


def _check_administrator(sources: Mapping[str, str]) -> None:
    """Raise ConfigError when an administrator has no name or no password; `sources` of the options that were given."""
    user = sources.get("admin_user")
    password = sources.get("admin_password") or sources.get("admin_password_file")
    if user and not password:
        raise ConfigError(
            f"{user} names an administrator without a password; give one by --admin-password-file FILE or"
            " SHARDHASH_ADMIN_PASSWORD as well"
        )
    if password and not user:
        raise ConfigError(
            f"{password} gives the password of an administrator without a name; give it by --admin-user NAME or"
            " SHARDHASH_ADMIN_USER as well"
        )


def _upstream(given: argparse.Namespace) -> UpstreamSettings | None:
    if not given.upstream:
        if given.upstream_user or given.upstream_token_file:
            raise ConfigError("an upstream user or token is given, but no upstream (--upstream)")
        if given.forward:
            raise ConfigError("--forward sends reports on to an upstream, but there is none; give --upstream ADDRESS")
        return None
    first, *others = given.upstream
    return UpstreamSettings(
        first,
        given.upstream_user,
        _first_line("--upstream-token-file", given.upstream_token_file),
        limit=given.upstream_timeout,
        remember_misses=given.upstream_misses,
        others=tuple(others),
        forward=given.forward,
        outbox_size=given.outbox_size,
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
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{flag}: {name} is no text in UTF-8") from None
    if not lines or not lines[0]:
        raise ConfigError(f"{flag}: the first line of {name} is empty")
    return lines[0]
