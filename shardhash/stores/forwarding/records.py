"""Records of the journals of forwarding, as JSON lists.

::

    outbox       ["report", method, taskhash, outhash, unihash, owner, PN, PV, PR, task, outhash_siginfo]
    refused      ["refused", why, method, ...]     the same, and what the upstream said
    conflicts    ["conflict", theirs, method, ...] without the siginfo; theirs is the unihash that the upstream answered

The unihash is the one that was given out here. A report with an empty outhash is an equivalence, a mapping without a
row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from shardhash.outbox.journal import Item
from shardhash.wire.long_text import JsonPieces
from shardhash.wire.rows import Report

REPORT = "report"
REFUSED = "refused"
CONFLICT = "conflict"


def encode_report(report: Report) -> bytes:
    """The record of a report that waits. Raises TypeError for a text that is no Unicode."""
    return orjson.dumps([REPORT, *report])


async def encode_long_report(report: Report) -> bytes:
    """The same of one with a long text, beside whatever else the event loop has to do."""
    pieces = []
    for piece in JsonPieces([REPORT, *report]):
        pieces.append(piece)
        await asyncio.sleep(0)
    return b"".join(pieces)


def encode_remark(kind: str, remark: str, report: Report) -> bytes:
    """The record of one that was refused, or answered otherwise."""
    return orjson.dumps([kind, remark, *report])


def decode_report(payload: bytes) -> Report | None:
    """The report of a record; None if it is of another kind, or of a later version."""
    kind, *fields = orjson.loads(payload)
    if kind in (REFUSED, CONFLICT):
        del fields[0]
    return Report(*fields) if kind in (REPORT, REFUSED, CONFLICT) and len(fields) == len(Report._fields) else None


def request_of(report: Report) -> dict[str, Any]:
    """What the upstream is told of a report."""
    return {name: value for name, value in report._asdict().items() if value is not None}


def describe_remark(item: Item) -> Mapping[str, Any]:
    """A record with a remark, for people: ``{time, remark, method, ...}``, time in microseconds since 1970 UTC."""
    _, remark, *fields = orjson.loads(item.payload)
    report = dict(zip(Report._fields, fields, strict=False))
    report.pop("outhash_siginfo", None)
    return {"time": item.time, "remark": remark, **report}
