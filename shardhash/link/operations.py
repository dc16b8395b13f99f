"""The link: what coordinator and worker say to each other, over one WebSocket on a unix socket.

Every message is binary and begins with a byte for its kind::

    'L'  u32 number (little-endian) and a batch frame (wire/batch.py): a lookup or existence request, its answer
    'J'  JSON: [[number, operation, argument, ...], ...]   requests, in the order in which they are to begin
                [[number, result], ...]                    answers, in any order
                [[number, null, kind, message], ...]       refusals; kind "storage": the disk refuses a write, or holds
                                                           damage; "failed": a bug, which the log describes

Numbers are the coordinator's, one sequence a link; what has number 0 is not answered. A request may be sent again after
a link dropped: each operation is idempotent. Hashes are text; unihashes 64 hex digits; times microseconds since 1970
UTC.

===============  ==========================================  =========================================================
operation        arguments                                   result
===============  ==========================================  =========================================================
``turn``         method, outhash, taskhash, created, number  waits for the turn of this outhash and for its index to
                                                             hold the taskhash, durably: the first page
``round``        [step, ...]                                 the answer to each step, below
``release``      [[method, outhash, number], ...]            null; each turn, which `number` names, goes to the next in
                                                             line
``page``         method, outhash, taskhash, after            the other taskhashes of the outhash, oldest first,
                                                             [[created, taskhash], ...]; after: null or the last of
                                                             the page before; empty at the end
``equivalents``  method, outhash, [taskhash], mapped         for each taskhash: null unless it has a row of this
                                                             outhash (and a mapping, if `mapped`); else its unihash,
                                                             or "" when it has no mapping
``map``          method, taskhash, unihash                   the unihash in force, once durable
``unihashes``    method, [taskhash]                          the unihash or null of each
``row``          method, taskhash, outhash, joined           columns or null
``oldest``       method, taskhash                            columns of its oldest row, joined; null without mapping
``remove``       job, where                                  {count, unindex: [[method, [[outhash, taskhash]]]],
                                                             done}; asked again with the same job until done
``clean``        job, before                                 the same, for rows older than this without a mapping
``watch``        job                                         null; a removal of any shard begins
``unindex``      job, method, [[outhash, taskhash]]          null; items go where no report had the turn since then
``unwatch``      job                                         null
``marks``        [[mark, where], ...]                        [count, ...]
``sweep``        mark                                        count of mappings without the mark, now deleted
``status``       -                                           [mappings with this mark, all, mark or ""]
``counts``       -                                           {mappings, rows, index, users, config}
``get``          entry kind, name                            value or null
``list``         entry kind                                  {name: value}
``set``          entry kind, name, value                     null, once durable
``snapshot``     -                                           null, once written and verified
===============  ==========================================  =========================================================

Steps of reports, done in one group commit and answered once they are durable. `number` names the turn.

================================================  =====================================================================
["index", number, created, method, taskhash,      takes the turn of this outhash and adds the taskhash to its index:
outhash]                                          true. Null, and nothing is done, unless the turn is free and the
                                                  index holds no taskhash; then ``turn`` is next
["report", number, created, method, taskhash,     the same, then what ``commit`` does, then the turn ends: the unihash
outhash, unihash, owner, PN, PV, PR, task,        in force, or null. For a shard that owns the taskhash too
siginfo]
["commit", as ``report``]                         stores row and mapping, each unless it is there: the unihash in force
================================================  =====================================================================

"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import orjson

LOOKUP = b"L"
JSON = b"J"
INDEX = "index"
REPORT = "report"
COMMIT = "commit"
GC_MARK = "gc-mark"
"""Name of the config entry that holds the current mark."""
NO_ANSWER = 0
"""Number of a request whose answer nobody waits for."""
PAGE = 16
"""Taskhashes of the first page; usually its first one decides."""
LATER_PAGE = 1024
"""Taskhashes of each later page."""
EXIT_DAMAGED = 3
"""Exit status of a worker whose files cannot be used as they are: starting it again would not help."""
MAX_MESSAGE = 1 << 30
"""Limit of a message on the link, bytes; a report carries its siginfo."""
FULL_MESSAGE = 16 << 20
"""Bytes from which on what would share a message is split: many clients may ask for long texts in one tick."""

_NUMBER = struct.Struct("<cI")


def lookup_head(number: int) -> bytes:
    """What stands before the batch frame of a lookup message."""
    return _NUMBER.pack(LOOKUP, number)


def decode_lookup(message: bytes) -> tuple[int, memoryview]:
    """(number, batch frame) of a lookup message; the frame is a part of it."""
    return _NUMBER.unpack_from(message)[1], memoryview(message)[_NUMBER.size :]


def encode_json(items: list[Any]) -> bytes:
    """A JSON message."""
    return JSON + orjson.dumps(items)


def encode_messages(items: list[Any], full: int = FULL_MESSAGE) -> Iterator[bytes]:
    """Items in order, in one message if it is not `full`, bytes, and else in more."""
    message = encode_json(items)
    if len(message) < full or len(items) == 1:
        yield message
        return
    middle = len(items) // 2
    yield from encode_messages(items[:middle], full)
    yield from encode_messages(items[middle:], full)


def decode_json(message: bytes) -> list[Any]:
    """The items of a JSON message."""
    items: list[Any] = orjson.loads(memoryview(message)[1:])
    return items
