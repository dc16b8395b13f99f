"""Dumps: the whole state as JSON Lines, for people, scripts and other servers; and back.

The first line is ``{"format": "shardhash dump", "version": 1}``; then a line for each thing, in any order::

    {"type": "entry", "kind": "user" or "config", "name": N, "value": any JSON}
    {"type": "mapping", "method": M, "taskhash": T, "unihash": U, "gc_mark": mark, "" for none}
    {"type": "row", "method": M, "taskhash": T, "outhash": O, "created": time, "owner", "PN", "PV", "PR", "task",
     "outhash_siginfo": text or null}

and at last ``{"type": "end", "entries": n, "mappings": n, "rows": n}``, by which a dump that was cut off is known.
Hashes are text; times are ISO 8601, UTC unless they say otherwise. Users are there with their salted token hashes, so
that their tokens go on working; treat a dump like the data directory. What follows from the rows (the index of
outhashes) is not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from shardhash.base.timestamps import from_iso
from shardhash.errors import ConfigError, InvokeError
from shardhash.shard.directory.reshard import NewShards, gather
from shardhash.shard.state.selection import columns
from shardhash.shard.state.table import Row, Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import Progress, recover
from shardhash.shard.storage.siginfo import read_siginfo
from shardhash.wire.hashes import to_digest, to_key, to_text
from shardhash.wire.rows import DETAILS, SIGINFO

FORMAT = "shardhash dump"
VERSION = 1
EVERY = 100_000
"""Lines between one progress text and the next."""

_COUNTED = {"entry": "entries", "mapping": "mappings", "row": "rows"}


def dump(
    fs: FileSystem,
    folders: Sequence[Path],
    write: Callable[[bytes], object],
    progress: Progress,
    until: int | None = None,
) -> Counter[str]:
    """Write everything that the shards in these folders hold, a line a call; how many of each. Raises DamageError.

    `until`: as of this time (microseconds since 1970 UTC). Memory: one shard.
    """
    counts = Counter(dict.fromkeys(_COUNTED.values(), 0))

    def put(line: dict[str, Any]) -> None:
        counts[_COUNTED[line["type"]]] += 1
        write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    write(orjson.dumps({"format": FORMAT, "version": VERSION}, option=orjson.OPT_APPEND_NEWLINE))
    for number, folder in enumerate(folders):
        table = recover(fs, folder, progress, until).table
        if number == 0:
            _dump_entries(table, put)
        _dump_hashes(fs, folder, table, put)
        progress(f"dumped shard {number + 1} of {len(folders)}")
    write(orjson.dumps({"type": "end", **counts}, option=orjson.OPT_APPEND_NEWLINE))
    return counts


def load(
    fs: FileSystem,
    lines: Iterable[bytes],
    folders: Sequence[Path],
    progress: Progress,
    present: Sequence[Path] = (),
) -> Counter[str]:
    """Read a dump into new shards (`begin_shard`), durably; how many of each. ConfigError names the line that is wrong.

    `present`: the folders of shards whose state is taken along; where both know something, they win, as with reports.
    Memory: the whole state.
    """
    shards = NewShards(fs, folders)
    counts = Counter(dict.fromkeys(_COUNTED.values(), 0))
    ended = False
    for number, line in enumerate(lines, 1):
        try:
            value = orjson.loads(line)
            if number == 1:
                _check_format(value)
            elif ended:
                raise ConfigError("something follows the end")
            elif value["type"] == "end":
                ended = _check_end(value, counts)
            else:
                counts[_COUNTED[value["type"]]] += 1
                _LOADERS[value["type"]](shards, value)
        except (ConfigError, InvokeError, KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing or not known" if isinstance(error, KeyError) else error
            raise ConfigError(f"line {number} of the dump: {what}") from None
        if number % EVERY == 0:
            progress(f"read {number:,} lines")
    if not ended:
        raise ConfigError("the dump is cut off: its last line is missing")
    gather(fs, present, shards, progress)
    shards.finish(progress)
    return counts


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


def _check_format(value: Any) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError('this is no dump: {"format": "shardhash dump", ...} is due')
    if value.get("version") != VERSION:
        raise ConfigError(f"version {value.get('version')} is not known, this shardhash reads {VERSION}")


def _check_end(value: dict[str, Any], counts: Counter[str]) -> bool:
    for name, count in counts.items():
        if value[name] != count:
            raise ConfigError(f"the dump says {value[name]} {name}, but {count} are in it")
    return True


def _load_entry(shards: NewShards, value: dict[str, Any]) -> None:
    shards.add_entry(_text(value, "kind"), _text(value, "name"), value["value"])


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


_LOADERS = {"entry": _load_entry, "mapping": _load_mapping, "row": _load_row}


def _text(value: dict[str, Any], name: str) -> str:
    found = value[name]
    if not isinstance(found, str):
        raise ConfigError(f"{name!r} must be text")
    return found


def _text_or_none(value: dict[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else _text(value, name)
