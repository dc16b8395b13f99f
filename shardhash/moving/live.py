"""Import into a server that runs: batch by batch, between what builds ask and report.

It can be stopped at any point and run again: what has arrived is then known. The rules are those of merging.py, but for
garbage collections: mappings get the mark that is current there, and the mark of a database is not taken over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardhash.base.entry_kinds import GC_MARK
from shardhash.client.blocking import Client
from shardhash.client.reports import in_batches, weight_of
from shardhash.errors import InvokeError
from shardhash.moving.importing import Wish
from shardhash.moving.merging import EVERY
from shardhash.moving.schema import ROW_COLUMNS, Source, SourceReport, Tell
from shardhash.moving.times import SourceTimes
from shardhash.wire.fields import MAX_TOKEN, is_token
from shardhash.wire.hashes import is_digest_text
from shardhash.wire.imports import CONFLICT, UNUSABLE
from shardhash.wire.rows import KNOWN, NEW

MAPPINGS_AT_ONCE = 3000
ROWS_AT_ONCE = 1000
USERS_AT_ONCE = 1000
"""Of one request, if they are short."""

_HASHES = 3
"""Columns of a row that are method and hashes."""


def import_live(client: Client, wish: Wish, tell: Tell) -> list[SourceReport]:
    """Import into the server of a client; a report for each database.

    Raises ConfigError for a source that is no database, ConnectionError, and InvokeError when the server refuses. What
    was told before stays there.
    """
    reports = []
    for open_source in wish.sources:
        with open_source() as source:
            times = SourceTimes(wish.zone)
            report = SourceReport(source.name, takes_marks=False)
            report.marked = source.config().get(GC_MARK, "")
            _send_mappings(client, source, report, tell)
            _send_rows(client, source, times, report, tell)
            if wish.users:
                _send_users(client, source, report)
            report.naive_times, report.bad_times = times.naive, times.bad
            reports.append(report)
    return reports


def _send_mappings(client: Client, source: Source, report: SourceReport, tell: Tell) -> None:
    total = source.size("mappings")
    for some in in_batches(_sound_mappings(source, report), weight_of, MAPPINGS_AT_ONCE):
        answers = client.import_batch(mappings=some)["mappings"]
        for mapping, answer in zip(some, answers, strict=True):
            if answer in (NEW, KNOWN):
                report.mappings[answer] += 1
            else:
                names = {"method": mapping["method"], "taskhash": mapping["taskhash"]}
                report.conflict("mapping", answer, mapping["unihash"], **names)
        tell(f"{source.name}: {sum(report.mappings.values()):,} of about {total:,} mappings")


def _sound_mappings(source: Source, report: SourceReport) -> Iterator[dict[str, Any]]:
    for method, taskhash, unihash, _ in source.mappings():
        if not _can_be_asked(method, taskhash):
            what = f"mapping {method!r} {taskhash!r}: no client can ask for it"
            report.leave_out(report.mappings, what)
        elif not (isinstance(unihash, str) and is_digest_text(unihash)):
            what = f"mapping {method} {taskhash}: its unihash {unihash!r:.100} is not 64 lowercase hex digits"
            report.leave_out(report.mappings, what)
        else:
            yield {"method": method, "taskhash": taskhash, "unihash": unihash}


def _send_rows(client: Client, source: Source, times: SourceTimes, report: SourceReport, tell: Tell) -> None:
    total = source.size("rows")
    done = 0
    for some in in_batches(_sound_rows(source, times, report), weight_of, ROWS_AT_ONCE):
        for answer in client.import_batch(rows=some)["rows"]:
            report.rows[answer] += 1
        done += len(some)
        if done % EVERY < len(some):
            tell(f"{source.name}: {done:,} of about {total:,} outhash rows")


def _sound_rows(source: Source, times: SourceTimes, report: SourceReport) -> Iterator[dict[str, Any]]:
    for values in source.rows():
        row = dict(zip(ROW_COLUMNS, values, strict=True))
        if not _can_be_asked(*values[:_HASHES]):
            report.leave_out(
                report.rows, f"outhash row {' '.join(map(repr, values[:_HASHES]))}: no client can ask for it"
            )
            continue
        row["created"] = times.timestamp(row["created"])
        yield {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in row.items()
            if value is not None
        }


def _send_users(client: Client, source: Source, report: SourceReport) -> None:
    users = [
        {"username": str(name), "token": str(token), "permissions": str(permissions or "").split()}
        for name, token, permissions in source.users()
    ]
    for some in in_batches(users, weight_of, USERS_AT_ONCE):
        _send_some_users(client, some, report)


def _send_some_users(client: Client, users: Sequence[dict[str, Any]], report: SourceReport) -> None:
    try:
        answers = client.import_batch(users=users)["users"]
    except InvokeError as error:
        report.users_refused += len(users)
        for user in users:
            report.leave_out(report.users, f"user {user['username']}: {error}; log in as one who may (--login)")
        return
    for user, answer in zip(users, answers, strict=True):
        name = user["username"]
        if answer == UNUSABLE:
            text = f"user {name}: its token is kept in a form that cannot be checked; give it a new one"
            report.leave_out(report.users, text)
        elif answer == CONFLICT:
            report.conflict("user", "the one that is there", "this one", username=str(name))
        else:
            report.users[answer] += 1


def _can_be_asked(*words: object) -> bool:
    """Whether these are words of the protocol: no white space, not empty, not too long."""
    return all(
        isinstance(word, str) and is_token(word) and len(word) <= MAX_TOKEN and "\0" not in word for word in words
    )
