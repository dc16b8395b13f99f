"""Commands: their names on the wire, how their fields are read, which permissions they need; PROTOCOL, "Messages"."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any, Final, TypeAlias, cast

from shardhash.errors import InvalidRequestError
from shardhash.wire.collecting import read_collect
from shardhash.wire.fields import MAX_TOKEN, ROWS_AT_ONCE, Fields, Rows
from shardhash.wire.imports import read_import_batch
from shardhash.wire.messages import (
    DB_ADMIN,
    READ,
    REPORT,
    USER_ADMIN,
    Auth,
    BackfillWait,
    BecomeUser,
    CleanUnused,
    DeleteUser,
    Discard,
    Diverging,
    DropRefused,
    ExistsBatch,
    ExistsStream,
    Find,
    Forwarding,
    ForwardRefused,
    GcMark,
    GcMarkStream,
    GcStatus,
    GcSweep,
    Get,
    GetAllUsers,
    GetBatch,
    GetDbQueryColumns,
    GetDbUsage,
    GetOuthash,
    GetRow,
    GetStats,
    GetStream,
    GetUser,
    Guess,
    ListUsers,
    NewUser,
    Ping,
    Quarantine,
    Quarantines,
    RefreshToken,
    Release,
    Remove,
    ReportBatch,
    ReportEquiv,
    Request,
    ResetStats,
    Saved,
    SetUserPerms,
    Why,
)
from shardhash.wire.rows import DETAILS, SIGINFO, Report
from shardhash.wire.search import MOST_FOUND, MOST_GUESSED, MOST_WHOLE
from shardhash.wire.values import describe

LARGE: Final = frozenset(("report", "report-batch", "get-batch", "exists-batch", "import-batch", "discard", "collect"))
"""The commands whose requests may be long."""
MOST_SMALL: Final = 256 * 1024
"""Bytes of a request of any other."""
_FIRST_KEY = re.compile(rb'\s*\{\s*"([a-z-]{1,40})"\s*:')
LONGEST_LIFE: Final = 100 * 366 * 86_400
"""Seconds for which a token may work."""
Steps: TypeAlias = Generator[None, None, Request]
"""The reading of a request, in steps of a millisecond."""
_FIRST_DETAIL: Final = Report._fields.index(DETAILS[0])


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name on the wire, and how it is treated.

    `read` turns the JSON value of the command key into the request, or raises InvalidRequestError; so many rows of
    it in a step, all for 0. `needs` are the permissions; `or_self`: none are needed about oneself (PROTOCOL,
    "Permissions"). A read-only server does not know commands with `writes`. A command with `stream` opens a stream
    mode. Builds send commands with `from_builds`: an `invoke-error` fails the task that sent one, a closed
    connection is a warning.
    """

    name: str
    read: Callable[[object, int], Request | Steps] = field(repr=False)
    needs: frozenset[str]
    or_self: bool = False
    writes: bool = False
    stream: bool = False

    def parse(self, arguments: object) -> Request:
        """The request. Raises InvalidRequestError."""
        read = self.read(arguments, 0)
        if type(read) is not GeneratorType:
            return cast(Request, read)
        while True:
            try:
                next(read)
            except StopIteration as end:
                request: Request = end.value
                return request

    def steps(self, arguments: object, rows_at_once: int = ROWS_AT_ONCE) -> Steps:
        """The same in steps, of which those with thousands of rows have many."""
        read = self.read(arguments, rows_at_once)
        return (yield from read) if isinstance(read, Generator) else read

    @property
    def long(self) -> bool:
        """Whether it may take long, and is ended when its client leaves."""
        return self.name in LONG

    @property
    def from_builds(self) -> bool:
        """Whether builds send it, and not only people and scripts."""
        return self.name in FROM_BUILDS


LONG: Final = frozenset(("remove", "clean-unused", "gc-mark", "gc-sweep", "quarantine", "release", "discard"))
"""The commands that may look at everything."""


FROM_BUILDS: Final = frozenset(
    ("get", "get-outhash", "get-stream", "exists-stream", "get-batch", "exists-batch", "report", "report-batch",
     "report-equiv")
)  # fmt: skip
"""The commands that a build's tasks send."""


def check_large(commands: Mapping[str, Command], begin: bytes, permissions: frozenset[str] | None) -> None:
    """Refuse a request of more than `MOST_SMALL` bytes by how it begins, before it is parsed, which takes 1 ms a MB.

    `permissions` are those of who asks; None: any. Raises InvalidRequestError.
    """
    named = _FIRST_KEY.match(begin)
    name = named[1].decode() if named else ""
    command = commands.get(name)
    if command is None:
        raise InvalidRequestError(f"a request of more than {MOST_SMALL >> 10} KiB must begin with its command")
    if name not in LARGE:
        raise InvalidRequestError(f"{name}: a request has at most {MOST_SMALL >> 10} KiB")
    if permissions is not None and not command.needs <= permissions:
        needs = " ".join(sorted(command.needs))
        raise InvalidRequestError(f"{name}: not allowed to access permissions(s) {needs}; log in before a long request")


def parse_request(commands: Mapping[str, Command], message: object) -> tuple[Command, Request] | None:
    """The command of a decoded message, and its request; None when the command is unknown. InvalidRequestError."""
    named = _command_of(commands, message)
    return None if named is None else (named[0], named[0].parse(named[1]))


def begin_request(commands: Mapping[str, Command], message: object) -> tuple[Command, Steps] | None:
    """The same, to be read in steps, which may raise as well."""
    named = _command_of(commands, message)
    return None if named is None else (named[0], named[0].steps(named[1]))


def _command_of(commands: Mapping[str, Command], message: object) -> tuple[Command, object] | None:
    """The command of a decoded message, and the value of its key; None when the command is unknown.

    Names that are no command are ignored beside one that is, as the reference does. Raises InvalidRequestError.
    """
    if not isinstance(message, dict):
        raise InvalidRequestError(f"a request must be an object with one command, not {describe(message)}")
    if len(message) == 1:  # as nearly always; 0.4 us less
        ((name, arguments),) = message.items()
        command = commands.get(name)
        return None if command is None else (command, arguments)
    known = [name for name in message if name in commands]
    if len(known) > 1:
        raise InvalidRequestError(f"a request must have one command, not {' and '.join(known[:2])} together")
    if not known:
        return None
    command = commands[known[0]]
    return command, message[command.name]


def describe_unknown(commands: Mapping[str, Command], message: object) -> str:
    """Why `parse_request` knows no command of a message, for the log."""
    names = [name for name in message if isinstance(name, str)] if isinstance(message, dict) else []
    for name in names:
        if name in COMMANDS and name not in commands:
            return f"{name} is not taken by a read-only address"
    return f"unknown command {', '.join(names)[:80]}" if names else "unknown command"


def _get(fields: Fields) -> Get:
    return Get(fields.token("method"), fields.token("taskhash"), fields.flag("all", default=False))


def _get_outhash(fields: Fields) -> GetOuthash:
    taskhash = fields.text("taskhash", MAX_TOKEN)
    return GetOuthash(
        fields.token("method"), fields.token("outhash"), taskhash, fields.flag("with_unihash", default=True)
    )


def _report(fields: Fields) -> Report:
    return fields.plain_report() or Report(
        fields.token("method"),
        fields.token("taskhash"),
        fields.token("outhash"),
        fields.unihash("unihash"),
        **{name: fields.reported_text(name) for name in DETAILS},
        outhash_siginfo=fields.siginfo(SIGINFO),
    )


def _report_batch(fields: Fields) -> Generator[None, None, ReportBatch]:
    return ReportBatch((yield from fields.objects("reports").read(_report_columns, Report._make, _report)))


def _report_columns(rows: Rows) -> list[list[Any] | None]:
    return [
        *(rows.tokens(name) for name in ("method", "taskhash", "outhash")),
        rows.unihashes("unihash"),
        *map(rows.reported_texts, DETAILS),
        rows.siginfos(SIGINFO),
    ]


def cut_details(request: Request, most: int) -> Request:
    """The request; if it is of reports, with at most so many characters of each detail. 0.5 us a report."""
    if isinstance(request, Report):
        return _cut([request], most)[0]
    return ReportBatch(_cut(request.reports, most)) if isinstance(request, ReportBatch) else request


def _cut(reports: list[Report], most: int) -> list[Report]:
    columns = list(zip(*reports, strict=True))[_FIRST_DETAIL : _FIRST_DETAIL + len(DETAILS)]
    if all(max(map(len, filter(None, column)), default=0) <= most for column in columns):
        return reports
    return [_cut_one(report, most) for report in reports]


def _cut_one(report: Report, most: int) -> Report:
    details: tuple[Any, ...] = report[_FIRST_DETAIL : _FIRST_DETAIL + len(DETAILS)]
    if max(map(len, filter(None, details)), default=0) <= most:
        return report
    return report._replace(**{name: text and text[:most] for name, text in zip(DETAILS, details, strict=True)})


def _report_equiv(fields: Fields) -> ReportEquiv:
    return ReportEquiv(fields.token("method"), fields.token("taskhash"), fields.unihash("unihash"))


def _gc_mark(fields: Fields) -> GcMark:
    return GcMark(fields.name("mark"), fields.where("where"))


def _find(fields: Fields) -> Find:
    whole = fields.flag("whole", default=False)
    most = MOST_WHOLE if whole else MOST_FOUND
    return Find(fields.search("where"), fields.whole("limit", 1, most, MOST_WHOLE), whole)


def _guess(fields: Fields) -> Guess:
    tasks = fields.pairs("tasks")
    if len(tasks) > MOST_GUESSED:
        raise InvalidRequestError(f"guess: 'tasks' holds {len(tasks)} tasks; at most {MOST_GUESSED} are taken")
    return Guess(fields.token("method"), tasks)


def _quarantine(fields: Fields) -> Quarantine:
    reason = fields.optional_text("reason", MAX_TOKEN) or ""
    return Quarantine(fields.search("where"), reason, fields.flag("preview", default=False))


def _discard(fields: Fields) -> Discard:
    rows = fields.objects("rows")
    columns = [rows.first(MOST_FOUND + 1).tokens(name) or [] for name in ("method", "taskhash", "outhash")]
    if not 0 < len(columns[0]) <= MOST_FOUND or len({len(column) for column in columns}) > 1:
        raise InvalidRequestError(f"discard: 'rows' must hold 1 to {MOST_FOUND} of method, taskhash and outhash")
    return Discard(list(zip(*columns, strict=True)))


def _set_user_perms(fields: Fields) -> SetUserPerms:
    return SetUserPerms(fields.name("username"), fields.permissions("permissions"))


def _new_user(fields: Fields) -> NewUser:
    return NewUser(fields.name("username"), fields.permissions("permissions"), _lifetime(fields))


def _lifetime(fields: Fields) -> int | None:
    """The seconds for which a token shall work; None when nothing is said of that."""
    seconds = fields.whole("expires_in", 0, LONGEST_LIFE, -1)
    return None if seconds < 0 else seconds


def _with_fields(
    name: str, read: Callable[[Fields], Request | Steps], *needs: str, or_self: bool = False, writes: bool = False
) -> Command:
    return Command(
        name, lambda arguments, at_once: read(Fields(name, arguments, at_once)), frozenset(needs), or_self, writes
    )


def _plain(name: str, request: Request, *needs: str, writes: bool = False, stream: bool = False) -> Command:
    """A command without fields; whatever its key holds is ignored, as the reference does."""
    return Command(name, lambda *_: request, frozenset(needs), writes=writes, stream=stream)


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        _plain("ping", Ping()),
        _with_fields("get", _get, READ),
        _with_fields("get-outhash", _get_outhash, READ),
        _plain("get-stream", GetStream(), READ, stream=True),
        _plain("exists-stream", ExistsStream(), READ, stream=True),
        _with_fields("get-batch", lambda f: GetBatch(f.token("method"), f.tokens("taskhashes")), READ),
        _with_fields("exists-batch", lambda f: ExistsBatch(f.tokens("unihashes")), READ),
        _with_fields("report", _report, READ),
        _with_fields("report-batch", _report_batch, READ),
        _with_fields("report-equiv", _report_equiv, READ, REPORT, writes=True),
        _with_fields("import-batch", read_import_batch, DB_ADMIN, writes=True),
        _with_fields("remove", lambda f: Remove(f.where("where")), DB_ADMIN, writes=True),
        _with_fields("clean-unused", lambda f: CleanUnused(f.seconds("max_age_seconds")), DB_ADMIN, writes=True),
        _with_fields("gc-mark", _gc_mark, DB_ADMIN, writes=True),
        _plain("gc-mark-stream", GcMarkStream(), DB_ADMIN, writes=True, stream=True),
        _plain("gc-status", GcStatus(), DB_ADMIN, writes=True),
        _with_fields("gc-sweep", lambda f: GcSweep(f.name("mark")), DB_ADMIN, writes=True),
        _plain("get-stats", GetStats(), READ),
        _plain("reset-stats", ResetStats(), DB_ADMIN, writes=True),
        _plain("get-db-usage", GetDbUsage(), READ),
        _plain("get-db-query-columns", GetDbQueryColumns(), DB_ADMIN),
        _plain("backfill-wait", BackfillWait(), READ, writes=True),
        _with_fields("find", _find, READ),
        _with_fields("get-row", lambda f: GetRow(f.token("method"), f.token("taskhash"), f.token("outhash")), READ),
        _with_fields(
            "diverging", lambda f: Diverging(f.search("where", empty=True), f.whole("limit", 1, 200, 50)), READ
        ),
        _with_fields("guess", _guess, READ),
        _with_fields("saved", lambda f: Saved(f.text("since", MAX_TOKEN)), READ),
        _with_fields(
            "why",
            lambda f: Why(
                f.token("taskhash"), f.optional_name("method"), f.optional_name("PN"), f.optional_name("task")
            ),
            READ,
        ),
        _with_fields("quarantine", _quarantine, DB_ADMIN, writes=True),
        _plain("quarantines", Quarantines(), DB_ADMIN),
        _with_fields("release", lambda f: Release(f.name("name")), DB_ADMIN, writes=True),
        _with_fields("discard", _discard, DB_ADMIN, writes=True),
        _with_fields("collect", read_collect, DB_ADMIN, writes=True),
        _with_fields("forwarding", lambda f: Forwarding(f.whole("limit", 0, MOST_FOUND, 10)), DB_ADMIN),
        _plain("forward-refused", ForwardRefused(), DB_ADMIN, writes=True),
        _plain("drop-refused", DropRefused(), DB_ADMIN, writes=True),
        _with_fields("auth", lambda f: Auth(f.text("username", MAX_TOKEN), f.text("token"))),
        _with_fields(
            "refresh-token",
            lambda f: RefreshToken(f.optional_name("username"), _lifetime(f)),
            USER_ADMIN,
            or_self=True,
            writes=True,
        ),
        _with_fields("set-user-perms", _set_user_perms, USER_ADMIN, writes=True),
        _with_fields("get-user", lambda f: GetUser(f.optional_name("username")), USER_ADMIN, or_self=True),
        _plain("get-all-users", GetAllUsers(), USER_ADMIN),
        _plain("list-users", ListUsers(), USER_ADMIN),
        _with_fields("new-user", _new_user, USER_ADMIN, writes=True),
        _with_fields(
            "delete-user", lambda f: DeleteUser(f.optional_name("username")), USER_ADMIN, or_self=True, writes=True
        ),
        _with_fields("become-user", lambda f: BecomeUser(f.name("username")), USER_ADMIN),
    )
}
"""Every command, by name."""


READ_ONLY_COMMANDS: Mapping[str, Command] = {name: command for name, command in COMMANDS.items() if not command.writes}
"""The commands that a read-only server knows (PROTOCOL, "Permissions")."""
