"""Stream modes: blocks of lines to batches of hashes, and answers back to lines (PROTOCOL, "Messages").

A block is what `connection.StreamLines` holds: consecutive lines of one stream mode. Real traffic asks with one method
and 64-hex hashes only, so such a block becomes digests without any Python bytecode for each line; anything else takes
a slower way to the same answers. Nothing but answers may be written in a stream mode, so a line that is malformed
raises ProtocolError, and the connection closes.

===============  =================================  ==========================================================
stream           a line                             its answer
===============  =================================  ==========================================================
get-stream       METHOD TASKHASH                    the unihash, or an empty line
exists-stream    UNIHASH                            ``true`` or ``false``; what is no unihash does not exist
gc-mark-stream   ``{"mark": M, "where": {...}}``    ``{"count": n}``
===============  =================================  ==========================================================
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from shardhash.errors import InvalidRequestError, ProtocolError
from shardhash.wire import jsontext
from shardhash.wire.batch import Found
from shardhash.wire.fields import MAX_TOKEN, Fields, is_token
from shardhash.wire.hashes import DIGEST_SIZE, Key, is_digest_text, join_digests, to_key
from shardhash.wire.messages import GcMark

_ZERO_LINE = b"0" * (2 * DIGEST_SIZE)


class LookupGroup(NamedTuple):
    """Taskhashes of one method and one form.

    `hashes` is bytes when all are 64 lowercase hex digits (their digests, end to end), else the keys of others.
    `places` are their places in the block, ascending; None when they are the whole block.
    """

    method: str
    hashes: bytes | list[Key]
    places: list[int] | None


class LookupBlock(NamedTuple):
    """Taskhashes to look up, `size` of them, in groups that a Store can answer."""

    size: int
    groups: list[LookupGroup]

    def join(self, answers: Sequence[Found]) -> Found:
        """The answers of the groups, in the order of `groups`, put into the order of the block."""
        if len(self.groups) == 1 and self.groups[0].places is None:
            return answers[0]
        unihashes: list[bytes | None] = [None] * self.size
        for group, found in zip(self.groups, answers, strict=True):
            assert group.places is not None
            for place, unihash in zip(group.places, found.unihashes(), strict=True):  # about 60 ns each, rare blocks
                unihashes[place] = unihash
        return Found.of(unihashes)


class ExistsBlock(NamedTuple):
    """Unihashes to look for: the digests of those that are well-formed, end to end.

    `well_formed` has a byte 0 or 1 for each of the block; None when all are.
    """

    digests: bytes
    well_formed: bytes | None

    def join(self, status: bytes) -> bytes:
        """A byte 0 or 1 for each of the block, from those for the well-formed ones."""
        if self.well_formed is None:
            return status
        rest = iter(status)
        return bytes([next(rest) if good else 0 for good in self.well_formed])


def parse_get_lines(lines: list[bytes]) -> LookupBlock:
    """The lookups of a block of get-stream, which is not empty; under 150 ns a line for real traffic.

    Raises ProtocolError for a line that is not two tokens of UTF-8.
    """
    method, _, _ = lines[0].partition(b" ")
    # Exactly n pieces of 64 hex digits between n times "\nMETHOD " leave no room for any other form of a line.
    hashes = b"\n".join([b"", *lines]).split(b"\n%b " % method)
    if len(hashes) == len(lines) + 1 and not hashes[0]:
        digests = join_digests(hashes[1:])
        if digests is not None:
            return LookupBlock(len(lines), [LookupGroup(_parse_method(method), digests, None)])
    return _group([_parse_get_line(line) for line in lines])


def group_taskhashes(method: str, taskhashes: list[str]) -> LookupBlock:
    """The lookups of a get-batch, as `parse_get_lines` gives them; under 150 ns each for 64-hex hashes."""
    joined = _join_texts(taskhashes)
    if joined is not None:
        return LookupBlock(len(taskhashes), [LookupGroup(method, joined, None)])
    return _group([(method, taskhash) for taskhash in taskhashes])


def parse_exists_lines(lines: list[bytes]) -> ExistsBlock:
    """The unihashes of a block of exists-stream. Raises ProtocolError for a line that is not one token of UTF-8."""
    digests = join_digests(lines)
    if digests is not None:
        return ExistsBlock(digests, None)
    return check_unihashes([_parse_exists_line(line) for line in lines])


def check_unihashes(unihashes: list[str]) -> ExistsBlock:
    """The unihashes of an exists-batch, as `parse_exists_lines` gives them."""
    digests = _join_texts(unihashes)
    if digests is not None:
        return ExistsBlock(digests, None)
    well_formed = bytes(map(is_digest_text, unihashes))
    return ExistsBlock(bytes.fromhex("".join(compress(unihashes, well_formed))), well_formed)


def parse_mark_lines(lines: list[bytes]) -> list[GcMark]:
    """The marks of a block of gc-mark-stream; about 2 us each. Raises ProtocolError for a malformed line."""
    try:
        return [_parse_mark_line(line) for line in lines]
    except InvalidRequestError as error:
        raise ProtocolError(str(error)) from None


def encode_found_lines(found: Found) -> bytes:
    """A line for each lookup: the unihash, empty where unknown. At C speed, about 60 ns each."""
    if not found.digests:
        return b""
    text = hexlify(found.digests, b"\n", DIGEST_SIZE) + b"\n"
    if found.known is None:
        return text
    # Unknown digests are zero. Replacing zeros is right unless there is a known unihash of all zeros as well.
    if text.count(_ZERO_LINE) == found.known.count(0):
        return text.replace(_ZERO_LINE, b"")
    return b"".join([line if known else b"\n" for line, known in zip(text.splitlines(True), found.known, strict=True)])


def encode_exists_lines(status: bytes) -> bytes:
    """A line ``true`` or ``false`` for each byte 1 or 0."""
    return status.replace(b"\1", b"true\n").replace(b"\0", b"false\n")


def encode_mark_lines(counts: Sequence[int]) -> bytes:
    """A line for each mark: how many mappings it was set on."""
    return b"".join([b'{"count": %d}\n' % count for count in counts])


def _group(lookups: list[tuple[str, str]]) -> LookupBlock:
    """The groups of (method, taskhash) in order; about 0.5 us each, for blocks that are not of real traffic."""
    texts: dict[tuple[str, bool], list[Key]] = {}
    places: dict[tuple[str, bool], list[int]] = {}
    for place, (method, taskhash) in enumerate(lookups):
        key = to_key(taskhash)
        form = method, isinstance(key, bytes)
        texts.setdefault(form, []).append(key)
        places.setdefault(form, []).append(place)
    whole = len(texts) == 1
    groups = []
    for form, keys in texts.items():
        digests = [key for key in keys if isinstance(key, bytes)]
        groups.append(LookupGroup(form[0], b"".join(digests) if form[1] else keys, None if whole else places[form]))
    return LookupBlock(len(lookups), groups)


def _join_texts(hashes: list[str]) -> bytes | None:
    """`join_digests` of texts."""
    joined = "\n".join(hashes)
    return join_digests(joined.encode().split(b"\n")) if joined.isascii() else None


def _parse_method(method: bytes) -> str:
    text = _decode(method)
    if not is_token(text) or len(text) > MAX_TOKEN:
        raise ProtocolError(f"{method[:80]!r} is no method: it must be one token of at most {MAX_TOKEN} characters")
    return text


def _parse_get_line(line: bytes) -> tuple[str, str]:
    tokens = _decode(line).split()
    if len(tokens) != 2:
        raise ProtocolError(f"a line of get-stream must be METHOD TASKHASH, not {line[:80]!r}")
    method, taskhash = tokens
    if len(method) > MAX_TOKEN:
        raise ProtocolError(f"a method has at most {MAX_TOKEN} characters, this one {len(method)}")
    return method, taskhash


def _parse_exists_line(line: bytes) -> str:
    tokens = _decode(line).split()
    if len(tokens) != 1:
        raise ProtocolError(f"a line of exists-stream must be one UNIHASH, not {line[:80]!r}")
    return tokens[0]


def _parse_mark_line(line: bytes) -> GcMark:
    fields = Fields("gc-mark-stream", jsontext.decode(line))
    return GcMark(fields.name("mark"), fields.where("where"))


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"line {line[:80]!r} is not UTF-8") from None
