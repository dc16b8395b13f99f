"""Chunks: the table as a sequence of JSON-able dicts, columns side by side, for snapshots.

`freeze` walks a table that goes on changing between one chunk and the next (a *fuzzy* image). What changed
meanwhile may be in a chunk or not; the log from before the walk on, applied over the loaded chunks, makes it
whole, since records are absolute.

Each chunk holds about `CHUNK` entries, up to 1 ms of work. A column of hashes is one string of 64-digit hashes
end to end when all are digests (decoded at C speed), else a list of texts.

=========  =====================================================================================================
kind       fields
=========  =====================================================================================================
``tasks``  method, taskhashes (hashes); unihashes (hashes, all-zero where known is 0), known ("0101...", or null
           when all are), marks ({position: mark}), details ([[owner, PN, PV, PR, task], ...]), and the rows of
           these taskhashes as columns: row_task (positions in taskhashes), row_outhash (hashes), row_created,
           row_details (positions in details), row_siginfo. A taskhash with many rows is in several chunks.
``index``  method, outhashes, taskhashes (hashes), created: an item each.
``asked``  method, parts ({number: entries in hex}): on which days mappings were last asked for (asked_days.py).
``set``    entry ("user", "config"), values ({name: value}).
=========  =====================================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeAlias

import orjson

from shardhash.shard.state import small_sets
from shardhash.shard.state.key_copies import Keys
from shardhash.shard.state.method_table import MethodTable
from shardhash.shard.state.packing import unpack_item
from shardhash.shard.state.table import Details, Table
from shardhash.wire.hashes import DIGEST_SIZE, Key, split_digests, to_key, to_text

Chunk: TypeAlias = dict[str, Any]

CHUNK = 400
"""Entries of a chunk."""
ENTRY_BYTES = 64 << 10
"""Bytes of entries of a chunk, about: a part of a quarantine may have 200,000."""
NOTHING: Chunk = {}
ROWS = 5
"""Rows of a chunk, times its entries; a taskhash with more has its rows in several chunks."""
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, struct.error)
"""Raised by a chunk or record whose checksum is right and whose values are impossible."""
PARTS = 16
"""Parts of the days that a chunk holds: 20,000 entries with 10 million mappings in two shards."""


def freeze(table: Table, size: int = CHUNK) -> Generator[Chunk, None, None]:
    """The chunks of a table, which may change between one and the next; `NOTHING` where it stops without one."""
    for kind in list(table.entries):
        yield from _entries(kind, table.entries[kind], size)
    for method, part in list(table.methods.items()):
        # Both at once, lest a taskhash that gets its mapping in between be in neither.
        tasks = yield from table.copies.make(NOTHING, part.mappings, part.unmapped)
        for taskhashes in tasks.slices(size):
            yield from _tasks(table, method, part, taskhashes, size * ROWS)
        outhashes = yield from table.copies.make(NOTHING, part.index)
        yield from _indexes(method, part, outhashes, size)
        numbers = part.days.numbers()
        for start in range(0, len(numbers), PARTS):
            # A part of which all mappings went meanwhile is gone.
            some = {str(n): packed.hex() for n in numbers[start : start + PARTS] if (packed := part.days.pack(n))}
            yield {"kind": "asked", "method": method, "parts": some}


def _entries(kind: str, entries: dict[str, Any], most: int) -> Iterator[Chunk]:
    """Entries of a kind: `most`, or some `ENTRY_BYTES`, a chunk."""
    values: dict[str, Any] = {}
    left = ENTRY_BYTES
    for name in list(entries):
        if name in entries:
            values[name] = entries[name]
            left -= len(orjson.dumps(entries[name]))
            if left <= 0 or len(values) >= most:
                yield {"kind": "set", "entry": kind, "values": values}
                values, left = {}, ENTRY_BYTES
    if values:
        yield {"kind": "set", "entry": kind, "values": values}


def load(table: Table, chunk: Chunk) -> None:
    """Put a chunk into a table that holds nothing of it. Raises one of MALFORMED for what `freeze` cannot have made."""
    kind = chunk["kind"]
    if kind == "set":
        table.entries.setdefault(chunk["entry"], {}).update(chunk["values"])
    elif kind == "tasks":
        _load_tasks(table, chunk)
    elif kind == "index":
        part = table.method(chunk["method"])
        columns = (decode_keys(chunk["outhashes"]), decode_keys(chunk["taskhashes"]), chunk["created"])
        last: Key = b""
        for outhash, taskhash, created in zip(*columns, strict=True):
            last = last if outhash == last else outhash  # items of one outhash stand together: one key object
            table.put_index(part, last, taskhash, created)
    elif kind == "asked":
        for number, packed in chunk["parts"].items():
            table.method(chunk["method"]).days.unpack(int(number), bytes.fromhex(packed))
    else:
        raise ValueError(f"chunk kind {kind!r} is not known")


def encode_keys(keys: list[Key]) -> str | list[str]:
    """A column of hashes."""
    try:
        return b"".join(keys).hex()  # type: ignore[arg-type]  # a text among them raises
    except TypeError:
        return [to_text(key) for key in keys]


def decode_keys(column: str | list[str]) -> list[Key]:
    """The inverse of `encode_keys`."""
    if isinstance(column, str):
        return list(split_digests(bytes.fromhex(column)))
    return [to_key(text) for text in column]


def _tasks(table: Table, method: str, part: MethodTable, taskhashes: list[Key], most: int) -> Iterator[Chunk]:
    """Taskhashes and their rows: a chunk, or several for those that have more rows than `most` together."""
    rows_of_each = [tuple(small_sets.iterate(part.rows.get(taskhash))) for taskhash in taskhashes]
    if sum(map(len, rows_of_each)) <= most:
        yield _tasks_chunk(table, method, part, taskhashes, rows_of_each)
        return
    for taskhash, small_set in zip(taskhashes, rows_of_each, strict=True):
        for start in range(0, max(len(small_set), 1), most):
            yield _tasks_chunk(table, method, part, [taskhash], [small_set[start : start + most]])


def _tasks_chunk(
    table: Table, method: str, part: MethodTable, taskhashes: list[Key], rows_of_each: list[tuple[bytes, ...]]
) -> Chunk:
    """`rows_of_each` holds the rows of each taskhash."""
    unihashes = [part.mappings.get(taskhash) for taskhash in taskhashes]
    zero = bytes(DIGEST_SIZE)
    chunk: Chunk = {
        "kind": "tasks",
        "method": method,
        "taskhashes": encode_keys(taskhashes),
        "unihashes": b"".join([unihash or zero for unihash in unihashes]).hex(),
        "known": None if None not in unihashes else "".join(["0" if u is None else "1" for u in unihashes]),
        "marks": _marks(part, taskhashes),
    }
    numbers: dict[Details, int] = {}
    positions: list[int] = []
    outhashes: list[Key] = []
    created: list[int] = []
    details: list[int] = []
    siginfo: list[int] = []
    for position, small_set in enumerate(rows_of_each):
        for item in small_set:
            row = table.unpack_row(item)
            positions.append(position)
            outhashes.append(row.outhash)
            created.append(row.created)
            details.append(numbers.setdefault(row.details, len(numbers)))
            siginfo.append(row.siginfo)
    return chunk | {
        "details": list(numbers),
        "row_task": positions,
        "row_outhash": encode_keys(outhashes),
        "row_created": created,
        "row_details": details,
        "row_siginfo": siginfo,
    }


def _marks(part: MethodTable, taskhashes: list[Key]) -> dict[str, str]:
    if not part.marks:
        return {}
    return {str(i): part.marks[taskhash] for i, taskhash in enumerate(taskhashes) if taskhash in part.marks}


def _indexes(method: str, part: MethodTable, outhashes: Keys, size: int) -> Iterator[Chunk]:
    items = _index_items(part, outhashes, size)
    while batch := list(islice(items, size)):
        yield {
            "kind": "index",
            "method": method,
            "outhashes": encode_keys([outhash for outhash, _ in batch]),
            "taskhashes": encode_keys([unpack_item(item)[1] for _, item in batch]),
            "created": [unpack_item(item)[0] for _, item in batch],
        }


def _index_items(part: MethodTable, outhashes: Keys, size: int) -> Iterator[tuple[Key, bytes]]:
    for outhash in chain.from_iterable(outhashes.slices(size)):
        for item in tuple(small_sets.iterate(part.index.get(outhash))):
            yield outhash, item


def _load_tasks(table: Table, chunk: Chunk) -> None:
    part = table.method(chunk["method"])
    taskhashes = decode_keys(chunk["taskhashes"])
    unihashes: Iterable[bytes] = split_digests(bytes.fromhex(chunk["unihashes"]))
    marks: dict[str, str] = chunk["marks"]
    if chunk["known"] is None and not marks:
        # 0.4 microseconds a mapping: what recovery spends most of its time on.
        for taskhash, unihash in zip(taskhashes, unihashes, strict=True):
            table.set_mapping(part, taskhash, unihash, "")
    else:
        known = chunk["known"] or "1" * len(taskhashes)
        for i, (taskhash, unihash, flag) in enumerate(zip(taskhashes, unihashes, known, strict=True)):
            if flag == "1":
                table.set_mapping(part, taskhash, unihash, marks.get(str(i), ""))
    details: list[Details] = [tuple(entry) for entry in chunk["details"]]
    columns = (chunk["row_task"], decode_keys(chunk["row_outhash"]), chunk["row_created"])
    numbers = (chunk["row_details"], chunk["row_siginfo"])
    for position, outhash, created, detail, siginfo in zip(*columns, *numbers, strict=True):
        table.put_row(part, taskhashes[position], outhash, created, details[detail], siginfo)
