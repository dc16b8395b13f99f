"""Stream modes: blocks of lines to batches of hashes, and answers back to lines (PROTOCOL, "Messages").

A block is the text of `connection.StreamLines`: consecutive lines of one stream mode, each ended by a newline, at
least one. Real traffic asks with one method and 64-hex hashes only, so all lines of such a block have one size, and
numpy takes the column of hashes out of it, without any Python bytecode for each line; anything else takes a slower way
to the same answers. Nothing but answers may be written in a stream mode, so a line that is malformed
raises ProtocolError, and the connection closes.

===============  =================================  ==========================================================
stream           a line                             its answer
===============  =================================  ==========================================================
get-stream       METHOD TASKHASH                    the unihash, or an empty line
exists-stream    UNIHASH                            ``true`` or ``false``; a text that is not a unihash does not exist
gc-mark-stream   ``{"mark": M, "where": {...}}``    ``{"count": n}``
===============  =================================  ==========================================================
"""

from __future__ import annotations

from binascii import hexlify, unhexlify
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import compress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import orjson

from shardhash.errors import InvalidRequestError, ProtocolError
from shardhash.wire import jsontext
from shardhash.wire.batch import Found
from shardhash.wire.fields import MAX_TOKEN, Fields, is_token
from shardhash.wire.framing import shown
from shardhash.wire.hashes import DIGEST_SIZE, Key, is_digest_text, join_digests, to_key

_T = TypeVar("_T")
Mark: TypeAlias = tuple[str, dict[str, str]]
"""A line of gc-mark-stream: the mark, and the conditions of the mappings to set it on."""

_ZERO_LINE = b"0" * (2 * DIGEST_SIZE)
_HASH_LINE_SIZE = 2 * DIGEST_SIZE + 1
HASHES_AT_ONCE = 8192
"""Hashes of one JSON batch that are looked up at one time; 3 ms."""
ODD_AT_ONCE = 1000
"""So many of them if some are not 64 lowercase hex digits; 1 ms."""
FEW_UNKNOWN = 64
"""Unknown hashes of a block that are always left out by replacing text."""


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


def parse_get_lines(text: bytes) -> LookupBlock:
    """The lookups of a block of get-stream; about 80 ns a line for real traffic, 2 us for a single line.

    Raises ProtocolError for a line that is not two tokens of UTF-8.
    """
    return parse_plain_get_lines(text) or _group([_parse_get_line(line) for line in _split(text)])


def parse_plain_get_lines(text: bytes) -> LookupBlock | None:
    """The same of a block that asks as real traffic does, which makes one group of digests; None for any other.

    80 ns a line of real traffic, and less for others.
    """
    column = _hash_column(text)
    if column is None:
        return None
    prefix, digests = column
    if prefix[-1:] != b" " or not is_token(method := _decode(prefix[:-1])):
        return None
    return _one_group(_check_method(method), digests)


def taskhash_blocks(method: str, taskhashes: list[str]) -> Iterator[LookupBlock]:
    """The lookups of a get-batch, a block after the other, each of 1 to 3 ms with its answers."""
    return _blocks(taskhashes, partial(_one_group, method), partial(group_taskhashes, method))


def unihash_blocks(unihashes: list[str]) -> Iterator[ExistsBlock]:
    """The unihashes of an exists-batch, a block after the other, each of 1 to 3 ms with its answers."""
    return _blocks(unihashes, lambda digests: ExistsBlock(digests, None), check_unihashes)


def _blocks(hashes: list[str], of_digests: Callable[[bytes], _T], of_others: Callable[[list[str]], _T]) -> Iterator[_T]:
    for some in parts(hashes, HASHES_AT_ONCE):
        digests = join_digests(some)
        if digests is not None:
            yield of_digests(digests)
        else:
            yield from map(of_others, parts(some, ODD_AT_ONCE))


def parts(items: list[_T], size: int) -> Iterator[list[_T]]:
    """The items, so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _one_group(method: str, digests: bytes) -> LookupBlock:
    return LookupBlock(len(digests) // DIGEST_SIZE, [LookupGroup(method, digests, None)])


def group_taskhashes(method: str, taskhashes: list[str]) -> LookupBlock:
    """The lookups of a few taskhashes, as `parse_get_lines` gives them; under 150 ns each for 64-hex hashes."""
    joined = join_digests(taskhashes)
    if joined is not None:
        return _one_group(method, joined)
    return _group([(method, taskhash) for taskhash in taskhashes])


def parse_exists_lines(text: bytes) -> ExistsBlock:
    """The unihashes of a block of exists-stream. Raises ProtocolError for a line that is not one token of UTF-8."""
    column = _hash_column(text)
    if column is not None and not column[0]:
        return ExistsBlock(column[1], None)
    return check_unihashes([_parse_exists_line(line) for line in _split(text)])


def check_unihashes(unihashes: list[str]) -> ExistsBlock:
    """A few unihashes, as `parse_exists_lines` gives them."""
    digests = join_digests(unihashes)
    if digests is not None:
        return ExistsBlock(digests, None)
    well_formed = bytes(map(is_digest_text, unihashes))
    return ExistsBlock(bytes.fromhex("".join(compress(unihashes, well_formed))), well_formed)


def parse_mark_lines(text: bytes) -> list[Mark]:
    """The marks of a block of gc-mark-stream; 1 to 4 us each. Raises ProtocolError for a malformed line."""
    lines = _split(text)
    try:
        return _plain_marks(lines) or [_parse_mark_line(line) for line in lines]
    except InvalidRequestError as error:
        raise ProtocolError(str(error)) from None


def _plain_marks(lines: list[bytes]) -> list[Mark] | None:
    """The marks of a block that marks unihashes and nothing else, as all of a sstate cache is marked; else None."""
    try:
        found = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError:
        return None
    if len(found) != len(lines):
        return None  # a line that is two values, or half of one
    marks: list[Mark] = []
    known_mark = None
    for value in found:  # 0.6 us each; a match statement with patterns of dicts takes 2.5
        if type(value) is not dict or type(where := value.get("where")) is not dict or len(where) != 1:
            return None
        if type(unihash := where.get("unihash")) is not str or not is_digest_text(unihash):
            return None
        mark: Any = value.get("mark")
        if mark != known_mark:
            if type(mark) is not str or not _is_plain_mark(mark):
                return None
            known_mark = mark
        marks.append((mark, where))
    return marks


def _is_plain_mark(mark: str) -> bool:
    return is_token(mark) and mark.isprintable() and len(mark) <= MAX_TOKEN


def encode_found_lines(found: Found) -> bytes:
    """A line for each lookup: the unihash, empty where unknown. At C speed, about 60 ns each."""
    if not found.digests:
        return b""
    unknown = 0 if found.known is None else found.known.count(0)
    count = len(found.digests) // DIGEST_SIZE
    if unknown == count:
        return b"\n" * count
    text = hexlify(found.digests, b"\n", DIGEST_SIZE) + b"\n"
    if found.known is None or not unknown:
        return text
    # Unknown digests are zero. Replacing zeros is right unless there is a known unihash of all zeros as well, and fast
    # where there are few.
    if unknown < max(FEW_UNKNOWN, count // 8) and text.count(_ZERO_LINE) == unknown:
        return text.replace(_ZERO_LINE, b"")
    lines = np.frombuffer(text, np.uint8).reshape(count, _HASH_LINE_SIZE)
    kept = np.ones(lines.shape, np.bool_)
    kept[:, :-1] = np.frombuffer(found.known, np.bool_)[:, None]
    return lines[kept].tobytes()


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


def _hash_column(text: bytes) -> tuple[bytes, bytes] | None:
    """What stands before the hash in each line of a block, and the digests of the hashes, end to end.

    None unless all lines are the same but for 64 lowercase hex digits at their end.
    """
    line_size = text.index(b"\n") + 1
    count, rest = divmod(len(text), line_size)
    if rest or line_size < _HASH_LINE_SIZE:
        return None
    prefix = text[: line_size - _HASH_LINE_SIZE]
    lines: np.ndarray[Any, Any] = np.ndarray(count, _line_type(len(prefix)), buffer=text)
    if lines["newline"].tobytes() != b"\n" * count or lines["prefix"].tobytes() != prefix * count:
        return None
    hashes: bytes = lines["hash"].tobytes()
    if hashes.lower() != hashes:
        return None
    try:
        return prefix, unhexlify(hashes)
    except ValueError:
        return None


@lru_cache(maxsize=64)  # one for each length of a method
def _line_type(prefix_size: int) -> np.dtype[Any]:
    return np.dtype([("prefix", f"V{prefix_size}"), ("hash", f"V{2 * DIGEST_SIZE}"), ("newline", "V1")])


def _split(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    lines.pop()
    return lines


def _check_method(method: str) -> str:
    if len(method) > MAX_TOKEN:
        raise ProtocolError(f"a method has at most {MAX_TOKEN} characters, this one {len(method)}")
    return method


def _parse_get_line(line: bytes) -> tuple[str, str]:
    tokens = _decode(line).split()
    if len(tokens) != 2:
        raise ProtocolError(f"a line of get-stream must be METHOD TASKHASH, not {shown(line)}")
    return _check_method(tokens[0]), tokens[1]


def _parse_exists_line(line: bytes) -> str:
    tokens = _decode(line).split()
    if len(tokens) != 1:
        raise ProtocolError(f"a line of exists-stream must be one UNIHASH, not {shown(line)}")
    return tokens[0]


def _parse_mark_line(line: bytes) -> Mark:
    fields = Fields("gc-mark-stream", jsontext.decode(line))
    return fields.name("mark"), fields.where("where")


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"line {shown(line)} is not UTF-8") from None
