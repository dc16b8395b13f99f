"""Records of the journals of forwarding, as JSON lists.

::

    outbox       ["report", method, taskhash, outhash, unihash, owner, PN, PV, PR, task, outhash_siginfo]
    refused      ["refused", why, method, ...]     the same, and what the upstream said
    conflicts    ["conflict", theirs, method, ...] without the siginfo; theirs is the unihash that the upstream answered

The unihash is the one that was given out here. A report with an empty outhash is an equivalence, a mapping without a
row. A long siginfo is encoded and decoded in parts, beside whatever else the event loop has to do: it is the last of
a record, so that what stands before it can be read by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shardhash.errors import InvalidRequestError
from shardhash.outbox.journal import Item
from shardhash.wire.long_message import text_parts
from shardhash.wire.long_text import JsonPieces, LongText
from shardhash.wire.rows import Report

REPORT = "report"
REFUSED = "refused"
CONFLICT = "conflict"
LONG = 64 * 1024
"""Bytes of a record from which on its siginfo is decoded by itself; and of records between which others run."""
_ELEMENT = rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|null),'
_BEFORE_TEXT = len(Report._fields) - 1
"""Texts of a report before its siginfo."""
_HEAD = re.compile(rb'\[(?:"report",|"(?:refused|conflict)",%b)(?:%b){%d}"' % (_ELEMENT, _ELEMENT, _BEFORE_TEXT))
_END = b'"]'


def encode_report(report: Report) -> bytes:
    """The record of a report that waits. Raises TypeError for a text that is no Unicode."""
    return orjson.dumps([REPORT, *report])


async def encode_long_report(report: Report) -> bytes:
    """The same of one with a long text."""
    return await _encode([REPORT, *report])


def encode_remark(kind: str, remark: str, report: Report) -> bytes:
    """The record of one that was refused, or answered otherwise."""
    return orjson.dumps([kind, remark, *report])


async def encode_long_remark(kind: str, remark: str, report: Report) -> bytes:
    """The same of one that may have a long text."""
    return await _encode([kind, remark, *report])


async def _encode(record: list[Any]) -> bytes:
    pieces = JsonPieces(record)
    if pieces.whole is not None:
        return pieces.whole
    parts = []
    for piece in pieces:
        parts.append(piece)
        await asyncio.sleep(0)
    return await asyncio.to_thread(b"".join, parts)  # which lets others run


def decode_report(payload: bytes) -> Report | None:
    """The report of a record; None if it is of another kind, or of a later version."""
    kind, *fields = orjson.loads(payload)
    if kind in (REFUSED, CONFLICT):
        del fields[0]
    return Report(*fields) if kind in (REPORT, REFUSED, CONFLICT) and len(fields) == len(Report._fields) else None


async def decode_reports(items: Sequence[Item]) -> list[Report | None]:
    """The reports of records."""
    reports = []
    size = 0
    for item in items:
        reports.append(await _decode_long(item.payload) if len(item.payload) > LONG else decode_report(item.payload))
        size += len(item.payload)
        if size > LONG:
            size = 0
            await asyncio.sleep(0)
    return reports


async def _decode_long(payload: bytes) -> Report | None:
    head = _HEAD.match(payload)
    if head is None or not payload.endswith(_END):
        return decode_report(payload)
    report = decode_report(_without_text(head))
    if report is None:
        return None
    parts = []
    try:
        for part in text_parts(payload, head.end(), len(payload) - len(_END)):
            parts.append(part)
            await asyncio.sleep(0)
    except InvalidRequestError:  # of a later version, with more behind the text
        return decode_report(payload)
    return report._replace(outhash_siginfo=LongText(parts))


def _without_text(head: re.Match[bytes]) -> bytes:
    return head[0][:-1] + b"null]"


def request_of(report: Report) -> dict[str, Any]:
    """What the upstream is told of a report."""
    return {name: value for name, value in report._asdict().items() if value is not None}


def describe_remark(item: Item) -> Mapping[str, Any]:
    """A record with a remark, for people: ``{time, remark, method, ...}``, time in microseconds since 1970 UTC."""
    head = _HEAD.match(item.payload) if len(item.payload) > LONG else None
    _, remark, *fields = orjson.loads(item.payload if head is None else _without_text(head))
    report = dict(zip(Report._fields, fields, strict=False))
    report.pop("outhash_siginfo", None)
    return {"time": item.time, "remark": remark, **report}
