"""Fields of a request: each is read by kind, and refused by name if it is not what is due.

=============  =================================================================================================
token          text without white space, not empty, at most 1024 characters: method, taskhash, outhash, ...
name           any text, not empty, at most 1024 characters: a user, a GC mark
unihash        text of 64 lowercase hex digits, else "Invalid unihash", the reference's words
text           any text, at most 64 KiB unless said
reported text  an optional text of a report, which is never refused: other JSON values become text, a text that is too
               long is cut off, half a surrogate pair becomes U+FFFD. A refusal would fail a build's task
flag           true or false; null counts as absent
seconds        a number, 0 or more; a fraction is rounded up
objects        a list of objects, each with fields of its own
where          an object of conditions, column to text; null values, and names of no column, are dropped
=============  =================================================================================================

No other text may hold a NUL or half a surrogate pair: neither can be kept as the reference keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from shardhash.errors import InvalidRequestError
from shardhash.wire.hashes import is_digest_text, join_digests
from shardhash.wire.long_text import LongText, Text
from shardhash.wire.rows import DETAILS, KEY_COLUMNS, QUERY_COLUMNS, SIGINFO, Report
from shardhash.wire.search import NAMES, Search, refusal_of
from shardhash.wire.values import MAX_TEXT, are_plain, are_texts, are_timestamps, describe, is_sound, reported

MAX_TOKEN = 1024
"""Most characters of a token or name."""
MOST_TOKENS = 16_000
"""Most texts of a list; 3 ms. There are batches of more in frames."""
MAX_SECONDS = 10_000_000_000
"""Three centuries; anything longer is a mistake, and would overflow dates."""
_HASHES = (*KEY_COLUMNS, "unihash")
ROWS_AT_ONCE = 500
"""Rows that are read in one step: 0.7 ms, 2 ms of those with other values than texts."""
_NEAR = 100
"""Rows that are read one by one because one of them is wrong; 1 ms."""
_TEXTS = frozenset((str, type(None)))
_T = TypeVar("_T")


def is_token(text: str) -> bool:
    """Whether the text is one token: not empty, without white space."""
    return text.split() == [text]


class Fields:
    """The fields of one request, `arguments` being the JSON value of its command key.

    Each reader raises InvalidRequestError that names the command, the field, what was found and what is due.
    """

    __slots__ = ("_at_once", "_command", "_values")

    def __init__(self, command: str, arguments: object, rows_at_once: int = 0) -> None:
        self._command = command
        self._at_once = rows_at_once
        if not isinstance(arguments, dict):
            raise self._error(f"its fields must be an object, not {describe(arguments)}")
        self._values: Mapping[str, Any] = arguments

    def token(self, name: str) -> str:
        """A token."""
        value = self.text(name, MAX_TOKEN)
        if not is_token(value):
            raise self._error(f"'{name}' must not hold white space" if value else f"'{name}' must not be empty")
        return value

    def tokens(self, name: str) -> list[str]:
        """A list of tokens; about 150 ns each, no Python bytecode runs for each."""
        value = self._texts(name)
        if len(value) > MOST_TOKENS:
            raise self._error(f"'{name}' holds {len(value)} texts; at most {MOST_TOKENS} are taken in one request")
        joined = "\n".join(value)
        self._check_text(name, joined)
        # Splitting gives the list back only if no item is empty or holds white space.
        if joined.split() != value:
            raise self._error(f"'{name}' must not hold empty texts or white space")
        if value and max(map(len, value)) > MAX_TOKEN:
            raise self._error(f"'{name}' must not hold texts of more than {MAX_TOKEN} characters")
        return value

    def name(self, name: str) -> str:
        """A name."""
        value = self.text(name, MAX_TOKEN)
        if not value:
            raise self._error(f"'{name}' must not be empty")
        return value

    def optional_name(self, name: str) -> str | None:
        """A name, or None when absent or null."""
        return None if self._values.get(name) is None else self.name(name)

    def unihash(self, name: str) -> str:
        """A unihash. Whatever else stands there is refused with the reference's words."""
        value = self._required(name)
        if not (isinstance(value, str) and is_digest_text(value)):
            raise InvalidRequestError("Invalid unihash")
        return value

    def text(self, name: str, limit: int | None = MAX_TEXT) -> str:
        """Any text of at most `limit` characters; None: only the message limits it."""
        value = self._required(name)
        if not isinstance(value, str):
            raise self._error(f"'{name}' must be text, not {describe(value)}")
        if limit is not None and len(value) > limit:
            raise self._error(f"'{name}' has {len(value)} characters; at most {limit} are taken")
        self._check_text(name, value)
        return value

    def optional_text(self, name: str, limit: int | None = MAX_TEXT) -> str | None:
        """A text, or None when absent or null."""
        return None if self._values.get(name) is None else self.text(name, limit)

    def siginfo(self, name: str) -> Text | None:
        """A reported text of any length, which may be a LongText."""
        value = self._values.get(name)
        return value if isinstance(value, LongText) else self.reported_text(name, limit=None)

    def reported_text(self, name: str, limit: int | None = MAX_TEXT) -> str | None:
        """A reported text, or None when absent or null. Never refuses one."""
        value = self._values.get(name)
        return None if value is None else reported(value, limit)

    def plain_report(self) -> Report | None:
        """A report all of whose texts are plain ASCII and what is due, as builds send them; None: read them one by one.

        In 3 us, a third of what that takes.
        """
        values = self._values
        siginfo = values.get(SIGINFO)
        hashes: list[Any] = list(map(values.get, _HASHES))
        details: list[Any] = list(map(values.get, DETAILS))
        try:
            joined, texts = " ".join(hashes), "".join(filter(None, details))
        except TypeError:
            return None
        sound = (
            joined.split() == hashes  # neither empty nor with white space
            and len(joined) <= MAX_TOKEN
            and joined.isascii()
            and "\0" not in joined
            and is_digest_text(hashes[-1])
            and len(texts) <= MAX_TEXT
            and texts.isascii()
            and _TEXTS.issuperset(map(type, details))
            and (siginfo is None or (type(siginfo) is str and siginfo.isascii()))
        )
        return Report._make((*hashes, *details, siginfo)) if sound else None

    def flag(self, name: str, default: bool) -> bool:
        """True or false; `default` when absent or null."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(f"'{name}' must be true or false, not {describe(value)}")
        return value

    def seconds(self, name: str) -> int:
        """A duration in whole seconds."""
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(f"'{name}' must be a number of seconds, not {describe(value)}")
        if not 0 <= value <= MAX_SECONDS:  # false for NaN too
            raise self._error(f"'{name}' must be from 0 to {MAX_SECONDS} seconds")
        return math.ceil(value)

    def whole(self, name: str, least: int, most: int, default: int) -> int:
        """A whole number; `default` when absent or null."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._error(f"'{name}' must be a whole number from {least} to {most}")
        return value

    def search(self, name: str, *, empty: bool = False) -> Search:
        """A search. `empty`: it may name nothing, or be absent, and then matches everything."""
        value = self._values.get(name) if empty else self._required(name)
        if empty and not value:
            return {}
        if not isinstance(value, dict):
            raise self._error(f"'{name}' must be an object of what to look for, not {describe(value)}")
        unknown = [key for key in value if key not in NAMES]
        if unknown:
            raise self._error(f"'{name}' takes {', '.join(NAMES)}, and not {unknown[0][:80]!r}")
        wanted = Fields(f"{self._command}: '{name}'", value)
        search = {key: wanted.text(key, MAX_TOKEN) for key in value if value[key] is not None}
        if refusal := refusal_of(search):
            raise self._error(f"'{name}': {refusal}")
        return search

    def permissions(self, name: str) -> tuple[str, ...]:
        """A list of permissions, in the order given; which ones exist is not checked here."""
        if name in self._values and not isinstance(self._values[name], list):
            raise InvalidRequestError(f"Unexpected type for {name}")  # the reference's words
        return tuple(self.tokens(name))

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """A list of lists of two texts each."""
        value = self._required(name)
        if not isinstance(value, list):
            raise self._error(f"'{name}' must be a list of pairs, not {describe(value)}")
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2 or not are_plain(pair):
                raise self._error(f"'{name}' must hold nothing but pairs of short texts")
        return [(first, second) for first, second in value]

    def objects(self, name: str) -> Rows:
        """The fields of each object of a list; errors count them from 1."""
        value = self._required(name)
        if not isinstance(value, list):
            raise self._error(f"'{name}' must be a list of objects, not {describe(value)}")
        return Rows(f"{self._command}: '{name}'", value, at_once=self._at_once)

    def objects_or_none(self, name: str) -> Rows:
        """The same; no objects when the list is missing."""
        return self.objects(name) if name in self._values else Rows(self._command, [])

    def timestamp(self, name: str) -> int:
        """A time in microseconds since 1970 UTC, up to the year 9999."""
        value = self._required(name)
        if not are_timestamps([value]):
            raise self._error(f"'{name}' must be microseconds since 1970, up to the year 9999")
        return int(value)

    def where(self, name: str) -> dict[str, str]:
        """Conditions, column to text."""
        value = self._required(name)
        if not isinstance(value, dict):
            raise self._error(f"'{name}' must be an object of conditions, not {describe(value)}")
        conditions = Fields(f"{self._command}: '{name}'", value)
        return {column: conditions.text(column) for column in QUERY_COLUMNS if value.get(column) is not None}

    def _required(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise self._error(f"'{name}' is missing") from None

    def _texts(self, name: str) -> list[str]:
        value = self._required(name)
        if not isinstance(value, list):
            raise self._error(f"'{name}' must be a list of texts, not {describe(value)}")
        if value and set(map(type, value)) != {str}:
            raise self._error(f"'{name}' must hold nothing but texts")
        return value

    def _check_text(self, name: str, value: str) -> None:
        if "\0" in value:
            raise self._error(f"'{name}' must not hold a NUL")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self._error(f"'{name}' must not hold half a surrogate pair") from None

    def _error(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self._command}: {what}")


class Rows:
    """The fields of many objects, as columns or one by one.

    A column is read without Python bytecode for each value, some 80 ns; it is None if any of its values is not what is
    due. Reading the rows one by one then tells which.
    """

    __slots__ = ("_at_once", "_command", "_first", "_rows")

    def __init__(self, command: str, rows: list[Any], first: int = 1, at_once: int = 0) -> None:
        """`first`: the place of the first; `at_once`: how many are read in a step, 0 for all."""
        self._at_once = at_once or len(rows) or 1
        self._command = command
        self._rows = rows
        self._first = first

    def __iter__(self) -> Iterator[Fields]:
        return (Fields(f"{self._command}: {place}", row) for place, row in enumerate(self._rows, self._first))

    def first(self, count: int) -> Rows:
        """So many of them at most."""
        return Rows(self._command, self._rows[:count], self._first)

    def read(
        self,
        columns: Callable[[Rows], Sequence[list[Any] | None]],
        make: Callable[[Iterable[Any]], _T],
        one: Callable[[Fields], _T],
    ) -> Generator[None, None, list[_T]]:
        """What each row stands for, some in a step.

        `make` does it with a value of each of the columns, 1 us; `one` by itself, 10 us. That is for rows that are
        wrong, and says so: only those near to the first of them are read by it.
        """
        found: list[_T] = []
        if self._at_once >= len(self._rows) > ROWS_AT_ONCE:
            # A message that is read in one step has not so many, unless they are wrong: then a few of them say so.
            few = Rows(self._command, self._rows[:ROWS_AT_ONCE], self._first)
            few._read(columns, make, one)
        for start in range(0, len(self._rows), self._at_once):
            some = Rows(self._command, self._rows[start : start + self._at_once], self._first + start)
            found += some._read(columns, make, one)
            yield
        return found

    def _read(
        self,
        columns: Callable[[Rows], Sequence[list[Any] | None]],
        make: Callable[[Iterable[Any]], _T],
        one: Callable[[Fields], _T],
    ) -> list[_T]:
        found = columns(self)
        sound = [column for column in found if column is not None]
        if len(sound) == len(found):
            return list(map(make, zip(*sound, strict=True)))
        for start in range(0, len(self._rows), _NEAR):
            some = Rows(self._command, self._rows[start : start + _NEAR], self._first + start)
            if None in columns(some):
                list(map(one, some))
        return list(map(one, self))

    def tokens(self, name: str) -> list[str] | None:
        """A column of tokens."""
        values = self._values(name)
        if not are_texts(values, MAX_TOKEN):
            return None
        joined = "\n".join(values)
        return values if joined.split() == values and "\0" not in joined and is_sound(joined) else None

    def unihashes(self, name: str) -> list[str] | None:
        """A column of unihashes."""
        values = self._values(name)
        return values if are_texts(values, MAX_TOKEN) and join_digests(values) is not None else None

    def reported_texts(self, name: str) -> list[str | None]:
        """A column of reported texts, None where absent or null; 0.3 us each where any is no text."""
        values = self._values(name)
        texts = [value for value in values if value is not None]
        if are_texts(texts, MAX_TEXT) and is_sound("".join(texts)):
            return values
        return [None if value is None else reported(value, MAX_TEXT) for value in values]

    def siginfos(self, name: str) -> list[Text | None]:
        """A column of reported texts of any length, LongTexts among them."""
        values = self._values(name)
        kinds = set(map(type, values))
        if kinds <= _TEXTS and is_sound("".join(filter(None, values))):
            return values
        return [value if value is None or type(value) is LongText else reported(value, None) for value in values]

    def timestamps(self, name: str) -> list[int] | None:
        """A column of times in microseconds since 1970 UTC."""
        values = self._values(name)
        return values if are_timestamps(values) else None

    def _values(self, name: str) -> list[Any]:
        # What is no object has False in each column, which no column takes: a text would pass for its own fields.
        return [row.get(name) if type(row) is dict else False for row in self._rows]
