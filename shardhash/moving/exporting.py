"""Export: what a data directory holds, as a database of the stock server. Memory: one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from shardhash.base.entry_kinds import CONFIG, USER
from shardhash.base.tokens import to_stock
from shardhash.moving import schema
from shardhash.moving.merging import EVERY
from shardhash.moving.schema import Tell
from shardhash.moving.writing import Target
from shardhash.shard.state.table import Table
from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.recovery import recover
from shardhash.shard.storage.siginfo import SiginfoReader
from shardhash.wire.hashes import to_text

Clean: TypeAlias = Callable[[str], str]


@dataclass(slots=True)
class Exported:
    """What was written: mappings, rows, users, config; and what was not, with the reason."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("mappings", "rows", "users", "config"), 0))
    left_out: list[str] = field(default_factory=list)


def export_from(
    fs: FileSystem, folders: Sequence[Path], target: Target, tell: Tell, until: int | None = None
) -> Exported:
    """Write what the shards in these folders hold (as of a time, microseconds). Raises DamageError, ConfigError."""
    done = Exported()
    for number, folder in enumerate(folders, 1):
        table = recover(fs, folder, tell, until).table
        place = f"shard {number} of {len(folders)}"
        if number == 1:
            target.add(schema.USERS, _users(table, done))
            target.add(schema.CONFIG, _config(table, done))
        target.add(schema.MAPPINGS, _counted(_mappings(table), done, "mappings", tell, place))
        with closing(SiginfoReader(fs, folder)) as texts:
            target.add(schema.ROWS, _counted(_rows(table, texts, target), done, "rows", tell, place))
    tell("making the indexes")
    target.finish()
    return done


def _counted(rows: Iterator[Any], done: Exported, name: str, tell: Tell, place: str) -> Iterator[Any]:
    for row in rows:
        yield row
        done.counts[name] += 1
        if done.counts[name] % EVERY == 0:
            tell(f"{place}: wrote {done.counts[name]:,} {name}")


def _mappings(table: Table) -> Iterator[tuple[str, str, str, str]]:
    for method, part in table.methods.items():
        for key, unihash in part.mappings.items():
            yield method, to_text(key), unihash.hex(), part.marks.get(key, "")


def _rows(table: Table, texts: SiginfoReader, target: Target) -> Iterator[tuple[Any, ...]]:
    clean = target.clean
    for method, part in table.methods.items():
        for key in part.rows:
            taskhash = to_text(key)
            for row in table.rows(method, key):
                text = texts.read(row.siginfo)
                details = [detail and clean(detail) for detail in row.details]
                created = target.created(row.created)
                yield method, taskhash, to_text(row.outhash), created, *details, None if text is None else clean(text)


def _users(table: Table, done: Exported) -> Iterator[tuple[str, str, str]]:
    for name, entry in sorted(table.entries.get(USER, {}).items()):
        token = to_stock(entry)
        if "expires" in entry:
            done.left_out.append(
                f"user {name}: a token of the old server never ends; give one that does not end before (refresh-token"
                f" --username {name} --expires never)"
            )
        elif token is not None:
            done.counts["users"] += 1
            yield name, token, " ".join(sorted(entry["permissions"]))
        elif entry.get("scheme") == "scrypt":
            done.left_out.append(
                f"user {name}: the old server cannot check a password of ours; it makes the user anew when started"
                f" with --admin-user {name} --admin-password"
            )
        else:
            done.left_out.append(f"user {name}: the old server cannot check a token of this form; refresh it before")


def _config(table: Table, done: Exported) -> Iterator[tuple[str, str]]:
    for name, value in sorted(table.entries.get(CONFIG, {}).items()):
        if isinstance(value, str):
            done.counts["config"] += 1
            yield name, value
