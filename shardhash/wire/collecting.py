"""Collecting: removing what nobody uses, with a look at it first (``collect``), the steps of ``shardhash gc``.

One collection at a time. Nothing is written until `take`, and nothing is remembered after `end`, the end of a worker or
an hour without a step; a step of a collection that is over is refused::

    {"collect": {"step": "begin"}}                        {collection, mappings, asked}
    {"collect": {"step": "keep", unihashes: [U, ...]}}    {count}
    {"collect": {"step": "keep-used", since: "2026-08-30"}}    {count}
    {"collect": {"step": "choose"}}                       {mappings, rows, kept, recipes: [[PN, mappings, rows], ...]}
    {"collect": {"step": "show", after: 0, limit: 100}}   {tasks: [{method, taskhash, unihash, gc_mark, rows}], next}
    {"collect": {"step": "take", mappings: [{method, taskhash, unihash}, ...]}}    {mappings, rows}
    {"collect": {"step": "end"}}                          {mappings, rows}

All steps but the first also have ``collection``, the name that it gave. `keep` keeps what has one of these unihashes,
as a cache does; `keep-used` what was asked for or reported on that day (UTC) or later, or may have been; `asked` says
whether the server knows what was asked for, else only reports count. What is asked for or reported from the begin on is
kept, too. `choose` fixes what is left, of which `show` tells a part from `after` on, None for `next` at the end, and
`take` removes some: each mapping that is still this and that nobody used meanwhile, with its rows. `end` says how many
went in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shardhash.errors import InvalidRequestError
from shardhash.wire.fields import Fields

STEPS: Final = ("begin", "keep", "keep-used", "choose", "show", "take", "end")
MOST_UNIHASHES: Final = 10_000
MOST_SHOWN: Final = 1000
MOST_TAKEN: Final = 2000

CollectedMapping = tuple[str, str, str]
"""method, taskhash, unihash"""


@dataclass(frozen=True, slots=True)
class Collect:
    """A step; see the module."""

    step: str
    collection: str = ""
    unihashes: list[str] = field(default_factory=list)
    since: str = ""
    after: int = 0
    limit: int = MOST_SHOWN
    mappings: list[CollectedMapping] = field(default_factory=list)


def read_collect(fields: Fields) -> Collect:
    """The request. Raises InvalidRequestError."""
    step = fields.token("step")
    if step not in STEPS:
        raise InvalidRequestError(f"collect: 'step' must be one of {', '.join(STEPS)}")
    if step == "begin":
        return Collect(step)
    name = fields.name("collection")
    if step == "keep":
        unihashes = fields.tokens("unihashes")
        if len(unihashes) > MOST_UNIHASHES:
            raise InvalidRequestError(f"collect: 'unihashes' must hold {MOST_UNIHASHES} at most")
        return Collect(step, name, unihashes)
    if step == "keep-used":
        return Collect(step, name, since=fields.token("since"))
    if step == "show":
        after = fields.whole("after", 0, 1 << 53, 0)
        return Collect(step, name, after=after, limit=fields.whole("limit", 1, MOST_SHOWN, MOST_SHOWN))
    if step == "take":
        rows = fields.objects("mappings").first(MOST_TAKEN + 1)
        columns = [rows.tokens("method"), rows.tokens("taskhash"), rows.unihashes("unihash")]
        sound = [column for column in columns if column is not None]
        if len(sound) < len(columns) or not 0 < len(sound[0]) <= MOST_TAKEN:
            what = f"'mappings' must hold 1 to {MOST_TAKEN} of method, taskhash and unihash"
            raise InvalidRequestError(f"collect: {what}")
        return Collect(step, name, mappings=list(zip(sound[0], sound[1], sound[2], strict=True)))
    return Collect(step, name)
