"""Dumps: the whole state as JSON Lines, for people, scripts and other servers; and back.

The first line is ``{"format": "shardhash dump", "version": 1}``; then a line for each thing, in any order::

    {"type": "entry", "kind": K, "name": N, "value": any JSON}
    {"type": "mapping", "method": M, "taskhash": T, "unihash": U, "gc_mark": mark, "" for none}
    {"type": "row", "method": M, "taskhash": T, "outhash": O, "created": time, "owner", "PN", "PV", "PR", "task",
     "outhash_siginfo": text or null}

An entry is of kind "user", "use" (the last use of a user's token), "config", or "quarantine" and "quarantine-part".
At last comes ``{"type": "end", "entries": n, "mappings": n, "rows": n}``, by which a dump that was cut off is known.
Hashes are text; times are ISO 8601, UTC unless they say otherwise. Users are there with their salted token hashes, so
that their tokens go on working; treat a dump like the data directory. One of somebody else's may give that somebody
rights, so users are left out unless asked for. What follows from the rows (the index of outhashes) is not in it.

Copies (database/copying.py) have more, which others leave out, since older programs do not know it: when mappings were
last asked for, in days since 1970 UTC, and the day from which on that is known::

    {"type": "day", "method": M, "taskhash": T, "day": n}
    {"type": "days-from", "day": n}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from shardhash.base.entry_kinds import ADMINISTRATOR, CONFIG, QUARANTINE, QUARANTINE_PART, USE, USER
from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError, InvokeError
from shardhash.shard.directory.reshard import NewShards, gather
from shardhash.shard.state.asked_days import day_of
from shardhash.shard.state.selection import columns
from shardhash.shard.state.table import Row, Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import Progress, now, recover
from shardhash.shard.storage.siginfo import read_siginfo
from shardhash.shard.storage.snapshot_chunks import MALFORMED
from shardhash.wire.hashes import to_digest, to_key, to_text
from shardhash.wire.messages import DB_ADMIN, READ, REPORT, USER_ADMIN
from shardhash.wire.rows import DETAILS, SIGINFO

FORMAT = "shardhash dump"
VERSION = 1
EVERY = 100_000
"""Lines between one progress text and the next."""

LONGEST_LINE = 256 << 20
"""Bytes of a line that is read; those of the largest siginfo text that there can be are fewer."""
_PERMISSIONS = frozenset((READ, REPORT, DB_ADMIN, USER_ADMIN, "@all", "@none"))
_COUNTED = {"entry": "entries", "mapping": "mappings", "row": "rows"}


class Loaded(NamedTuple):
    """What a dump held: how many of each; its users with their permissions, taken along or not."""

    counts: Counter[str]
    users: dict[str, list[str]]


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, of which one that is too long is cut off."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def dump(
    fs: FileSystem,
    folders: Sequence[Path],
    write: Callable[[bytes], object],
    progress: Progress,
    until: int | None = None,
    *,
    days: bool = False,
) -> Counter[str]:
    """Write everything that the shards in these folders hold, a line a call; how many of each. Raises DamageError.

    `until`: as of this time (microseconds since 1970 UTC). `days`: with what copies have. Memory: one shard.
    """
    counts = Counter(dict.fromkeys(_COUNTED.values(), 0))

    def put(line: dict[str, Any]) -> None:
        if line["type"] in _COUNTED:
            counts[_COUNTED[line["type"]]] += 1
        write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    write(orjson.dumps({"format": FORMAT, "version": VERSION}, option=orjson.OPT_APPEND_NEWLINE))
    today = days_from = day_of(now())
    for number, folder in enumerate(folders):
        table = recover(fs, folder, progress, until).table
        if days:
            days_from = max(table.asked_from or today, days_from if number else 0)
            _dump_days(table, put, today)
        if number == 0:
            _dump_entries(table, put)
        _dump_hashes(fs, folder, table, put)
        progress(f"dumped shard {number + 1} of {len(folders)}")
    if days:
        put({"type": "days-from", "day": days_from})
    write(orjson.dumps({"type": "end", **counts}, option=orjson.OPT_APPEND_NEWLINE))
    return counts


def load(
    fs: FileSystem,
    lines: Iterable[bytes],
    folders: Sequence[Path],
    progress: Progress,
    present: Sequence[Path] = (),
    *,
    users: bool = False,
) -> Loaded:
    """Read a dump into new shards (`begin_shard`), durably. ConfigError names the line that is wrong.

    `users`: with the users that are in it, and whom the server's settings made an administrator. `present`: the folders
    of shards whose state is taken along; where both know something, they win, as with reports. Memory: the whole state.
    """
    shards = NewShards(fs, folders)
    counts = Counter(dict.fromkeys(_COUNTED.values(), 0))
    found: dict[str, list[str]] = {}
    ended = False
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > LONGEST_LINE:
                raise ConfigError(f"it has more than {LONGEST_LINE:,} bytes")
            value = orjson.loads(line)
            if number == 1:
                _check_format(value)
            elif ended:
                raise ConfigError("something follows the end")
            elif value["type"] == "end":
                ended = _check_end(value, counts)
            else:
                if value["type"] == "entry":
                    _load_entry(shards, value, found, users=users)
                else:
                    _LOADERS[value["type"]](shards, value)
                counts[_COUNTED.get(value["type"], "")] += 1
        except (ConfigError, InvokeError, *MALFORMED) as error:
            what = f"{error} is missing or not known" if isinstance(error, KeyError) else error
            raise ConfigError(f"line {number} of the dump: {what}") from None
        if number % EVERY == 0:
            progress(f"read {number:,} lines")
    if not ended:
        raise ConfigError("the dump is cut off: its last line is missing")
    gather(fs, present, shards, progress)
    shards.finish(progress)
    return Loaded(counts, found)


def _dump_entries(table: Table, put: Callable[[dict[str, Any]], None]) -> None:
    for kind, entries in table.entries.items():
        for name, value in entries.items():
            put({"type": "entry", "kind": kind, "name": name, "value": value})


def _dump_hashes(fs: FileSystem, folder: Path, table: Table, put: Callable[[dict[str, Any]], None]) -> None:
    for method, part in table.methods.items():
        for key, unihash in part.mappings.items():
            mapping = {"method": method, "taskhash": to_text(key), "unihash": unihash.hex()}
            put({"type": "mapping", **mapping, "gc_mark": part.marks.get(key, "")})
        for key in part.rows:
            for row in table.rows(method, key):
                put({"type": "row", **columns(method, key, row, lambda number: read_siginfo(fs, folder, number))})


def _dump_days(table: Table, put: Callable[[dict[str, Any]], None], today: int) -> None:
    for method, part in table.methods.items():
        part.days.note(part.take_asked(), today)  # what the log replayed counts as asked for now
        for key in part.mappings:
            if day := part.days.day(key):
                put({"type": "day", "method": method, "taskhash": to_text(key), "day": day})


def _check_format(value: Any) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError('this is not a dump: its first line must be {"format": "shardhash dump", ...}')
    if value.get("version") != VERSION:
        raise ConfigError(f"version {value.get('version')} is not known, this shardhash reads {VERSION}")


def _check_end(value: dict[str, Any], counts: Counter[str]) -> bool:
    for name in _COUNTED.values():
        if value[name] != counts[name]:
            raise ConfigError(f"the dump says {value[name]} {name}, but {counts[name]} are in it")
    return True


def _load_entry(shards: NewShards, value: dict[str, Any], users_found: dict[str, list[str]], *, users: bool) -> None:
    kind, name, entry = _text(value, "kind"), _text(value, "name"), value["value"]
    if kind == USER:
        users_found[name] = _check_user(entry)
    elif kind in _CHECKS:
        _CHECKS[kind](entry)
    elif kind != CONFIG:
        raise ConfigError(f"entries of kind {kind!r} are not known")
    elif name == ADMINISTRATOR:
        _check_user(entry)
        _text(entry, "username")
    elif not isinstance(entry, str):
        raise ConfigError(f"the setting {name!r} must be text")
    if users or kind in (QUARANTINE, QUARANTINE_PART) or (kind == CONFIG and name != ADMINISTRATOR):
        shards.add_entry(kind, name, entry)


def _check_user(entry: Any) -> list[str]:
    """The permissions of a user (coordinator/users.py). ConfigError for what is none."""
    if not isinstance(entry, dict):
        raise ConfigError("a user must be an object")
    for name in ("id", "scheme", "salt", "hash"):
        _text(entry, name)
    for name in ("salt", "hash"):
        bytes.fromhex(entry[name])
    for name in ("lifetime", "expires"):
        if name in entry:
            _number(entry, name)
    permissions = entry["permissions"]
    if not isinstance(permissions, list) or not all(word in _PERMISSIONS for word in permissions):
        raise ConfigError(f"the permissions of a user must be some of {', '.join(sorted(_PERMISSIONS))}")
    return [str(word) for word in permissions]


def _check_use(entry: Any) -> None:
    """The last use of a token (coordinator/token_life.py)."""
    _text(entry, "salt")
    _number(entry, "used")


def _check_quarantine(entry: Any) -> None:
    """A quarantine (stores/quarantines.py)."""
    for name in ("name", "reason", "time"):
        _text(entry, name)
    _text_or_none(entry, "user")
    for name in ("rows", "mappings", "outhashes", "shared", "parts"):
        _number(entry, name)
    if not isinstance(entry["done"], bool) or not isinstance(entry["where"], dict):
        raise ConfigError("this is no quarantine: 'done' must be true or false, and 'where' an object")


def _check_quarantine_part(entry: Any) -> None:
    """What a quarantine sets aside: mappings as (method, taskhash, unihash), outhashes as (method, outhash)."""
    for name, size in (("mappings", 3), ("outhashes", 2)):
        for texts in entry[name]:
            if len(texts) != size or not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"this is no part of a quarantine: each of its {name} must be {size} texts")


_CHECKS: dict[str, Callable[[Any], None]] = {
    USE: _check_use,
    QUARANTINE: _check_quarantine,
    QUARANTINE_PART: _check_quarantine_part,
}


def _load_mapping(shards: NewShards, value: dict[str, Any]) -> None:
    unihash = to_digest(_text(value, "unihash"))
    shards.add_mapping(_text(value, "method"), to_key(_text(value, "taskhash")), unihash, _text(value, "gc_mark"))


def _load_row(shards: NewShards, value: dict[str, Any]) -> None:
    method, taskhash, outhash = (
        _text(value, "method"),
        to_key(_text(value, "taskhash")),
        to_key(_text(value, "outhash")),
    )
    owner, pn, pv, pr, task = (_text_or_none(value, name) for name in DETAILS)
    row = Row(from_iso(_text(value, "created")), (owner, pn, pv, pr, task), 0, outhash)
    shards.add_row(method, taskhash, row, _text_or_none(value, SIGINFO))
    shards.add_index(method, outhash, taskhash, row.created)


def _load_day(shards: NewShards, value: dict[str, Any]) -> None:
    shards.add_day(_text(value, "method"), to_key(_text(value, "taskhash")), _number(value, "day"))


def _load_days_from(shards: NewShards, value: dict[str, Any]) -> None:
    shards.keep_days_from(_number(value, "day"))


_LOADERS = {"mapping": _load_mapping, "row": _load_row, "day": _load_day, "days-from": _load_days_from}


def _number(value: dict[str, Any], name: str) -> int:
    found = value[name]
    if isinstance(found, bool) or not isinstance(found, int):
        raise ConfigError(f"{name!r} must be a whole number")
    return found


def _text(value: dict[str, Any], name: str) -> str:
    found = value[name]
    if not isinstance(found, str):
        raise ConfigError(f"{name!r} must be text")
    return found


def _text_or_none(value: dict[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else _text(value, name)
