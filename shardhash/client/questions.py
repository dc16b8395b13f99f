"""Questions about many hashes, and the answers so far: what makes a retry ask only for the rest. Pure.

A `Question` keeps its hashes in order and takes answers in that order, whichever way they travel: binary frames
(`DigestQuestion` only), JSON messages, or lines of a stream. What is still unanswered can be put into any of these
forms again, so that a question begun on one connection is completed on another, or by another kind of server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from binascii import unhexlify
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from shardhash.client import json_text
from shardhash.errors import ProtocolError
from shardhash.wire.batch import EXISTS, GET, Batch, Found, decode_answer, encode_request
from shardhash.wire.hashes import DIGEST_SIZE, Buffer, join_digests

_HEX_SIZE = 2 * DIGEST_SIZE


class Question(ABC):
    """`size` hashes, of which the first `done` are answered."""

    stream: ClassVar[str]
    """The command whose stream mode answers the question."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.done = 0

    @property
    def complete(self) -> bool:
        """Whether every hash is answered."""
        return self.done >= self.size

    def lines(self) -> list[str]:
        """A stream line for each unanswered hash."""
        return self._lines(self.done, self.size)

    def messages(self, block: int) -> list[bytes]:
        """JSON requests for the unanswered hashes, at most `block` in each."""
        return [json_text.encode(self._message(*bounds)) for bounds in self._blocks(block)]

    def take_lines(self, answers: Sequence[bytes]) -> None:
        """Take stream answers. Raises ProtocolError unless each has the form that is due."""
        if answers:
            try:
                self._take_texts(b"\n".join(answers).decode().split("\n"))
            except ValueError:
                raise ProtocolError(f"{self.stream}: an answer line is malformed") from None
            self._advance(len(answers))

    def take_answer(self, answer: object, expected: int) -> None:
        """Take the answer to a JSON request for `expected` hashes. Raises ProtocolError."""
        try:
            self._take_list(answer, expected)
        except (KeyError, TypeError, ValueError):
            raise ProtocolError(f"the answer to a batch of {expected} is malformed") from None
        self._advance(expected)

    def block_sizes(self, block: int) -> list[int]:
        """How many hashes each request for the rest holds."""
        return [end - start for start, end in self._blocks(block)]

    def _blocks(self, block: int) -> list[tuple[int, int]]:
        return [(start, min(start + block, self.size)) for start in range(self.done, self.size, block)]

    def _advance(self, count: int) -> None:
        self.done += count
        if self.done > self.size:
            raise ProtocolError(f"{self.done} answers came to {self.size} questions")

    @abstractmethod
    def _lines(self, start: int, end: int) -> list[str]: ...

    @abstractmethod
    def _message(self, start: int, end: int) -> object: ...

    @abstractmethod
    def _take_texts(self, answers: list[str]) -> None:
        """Keep the answers of stream lines; ValueError for a malformed one."""

    @abstractmethod
    def _take_list(self, answer: object, expected: int) -> None:
        """Keep the answers of a JSON message; KeyError, TypeError or ValueError for a malformed one."""


class DigestQuestion(Question):
    """A question about digests: 32 bytes each, end to end."""

    op: ClassVar[int]

    def __init__(self, digests: bytes, method: str = "") -> None:
        size, rest = divmod(len(digests), DIGEST_SIZE)
        if rest:
            raise ValueError(f"digests are {DIGEST_SIZE} bytes each; {len(digests)} bytes are not a multiple of that")
        super().__init__(size)
        self.digests = digests
        self.method = method

    def frame(self) -> bytes:
        """A binary request for all unanswered digests."""
        return self._frame(self.done, self.size)

    def frames(self, block: int) -> Iterator[bytes]:
        """Binary requests for the unanswered digests, at most `block` in each, each made when it is due."""
        # The blocks are fixed here, before answers move `done`.
        return (self._frame(*bounds) for bounds in self._blocks(block))

    def _frame(self, start: int, end: int) -> bytes:
        return encode_request(Batch(self.op, self.method, self.digests[start * DIGEST_SIZE : end * DIGEST_SIZE]))

    def take_frame(self, frame: bytes, expected: int) -> None:
        """Take the frame that answers a request for `expected` digests. Raises ProtocolError."""
        self._take_decoded(decode_answer(frame), expected)
        self._advance(expected)

    def _texts(self, start: int, end: int) -> list[str]:
        return hex_texts(self.digests[start * DIGEST_SIZE : end * DIGEST_SIZE])

    @abstractmethod
    def _take_decoded(self, answer: Found | bytes, expected: int) -> None: ...


class UnihashesOfDigests(DigestQuestion):
    """Which unihash has each taskhash (given as digest) of a method?"""

    stream = "get-stream"
    op = GET

    def __init__(self, method: str, digests: bytes) -> None:
        check_words([method], "method")
        super().__init__(digests, method)
        self._parts: list[Found] = []

    def found(self) -> Found:
        """The answers, as digests."""
        if len(self._parts) == 1:
            return self._parts[0]
        digests = b"".join([part.digests for part in self._parts])
        if all(part.known is None for part in self._parts):
            return Found(digests, None)
        known = [b"\1" * (len(p.digests) // DIGEST_SIZE) if p.known is None else p.known for p in self._parts]
        return Found(digests, b"".join(known))

    def unihashes(self) -> list[str | None]:
        """The answers, as texts; None where unknown. About 60 ns each, 95 when some are unknown."""
        found = self.found()
        texts: list[str | None] = [*hex_texts(found.digests)]
        if found.known is None:
            return texts
        return [text if known else None for text, known in zip(texts, found.known, strict=True)]

    def _lines(self, start: int, end: int) -> list[str]:
        return _with_method(self.method, self._texts(start, end))

    def _message(self, start: int, end: int) -> object:
        return _get_batch(self.method, self._texts(start, end))

    def _take_texts(self, answers: list[str]) -> None:
        self._parts.append(_found(answers))

    def _take_list(self, answer: object, expected: int) -> None:
        self._parts.append(_found([text or "" for text in _unihash_list(answer, expected)]))

    def _take_decoded(self, answer: Found | bytes, expected: int) -> None:
        if not isinstance(answer, Found) or len(answer.digests) != expected * DIGEST_SIZE:
            raise ProtocolError(f"the answer to a get of {expected} hashes is of another kind or size")
        self._parts.append(answer)


class UnihashesOfTexts(Question):
    """Which unihash has each taskhash of a method? For taskhashes that are not 64 hex digits."""

    stream = "get-stream"

    def __init__(self, method: str, taskhashes: list[str]) -> None:
        check_words([method], "method")
        check_words(taskhashes, "taskhash")
        super().__init__(len(taskhashes))
        self.method = method
        self.taskhashes = taskhashes
        self._unihashes: list[str | None] = []

    def unihashes(self) -> list[str | None]:
        """The answers; None where unknown."""
        return self._unihashes

    def _lines(self, start: int, end: int) -> list[str]:
        return _with_method(self.method, self.taskhashes[start:end])

    def _message(self, start: int, end: int) -> object:
        return _get_batch(self.method, self.taskhashes[start:end])

    def _take_texts(self, answers: list[str]) -> None:
        _found(answers)
        self._unihashes += [text or None for text in answers]

    def _take_list(self, answer: object, expected: int) -> None:
        unihashes = _unihash_list(answer, expected)
        _found([text or "" for text in unihashes])
        self._unihashes += unihashes


class ExistenceOfDigests(DigestQuestion):
    """Is each unihash (given as digest) the unihash of some mapping?"""

    stream = "exists-stream"
    op = EXISTS

    def __init__(self, digests: bytes) -> None:
        super().__init__(digests)
        self._parts: list[bytes] = []

    def status(self) -> bytes:
        """The answers, a byte 1 (yes) or 0 (no) each."""
        return b"".join(self._parts)

    def _lines(self, start: int, end: int) -> list[str]:
        return self._texts(start, end)

    def _message(self, start: int, end: int) -> object:
        return {"exists-batch": {"unihashes": self._texts(start, end)}}

    def _take_texts(self, answers: list[str]) -> None:
        if not {"true", "false"}.issuperset(answers):
            raise ValueError
        self._parts.append(bytes([answer == "true" for answer in answers]))

    def _take_list(self, answer: object, expected: int) -> None:
        self._parts.append(bytes(map([False, True].index, _list(answer, "exists", expected))))

    def _take_decoded(self, answer: Found | bytes, expected: int) -> None:
        if isinstance(answer, Found) or len(answer) != expected:
            raise ProtocolError(f"the answer to an exists of {expected} hashes is of another kind or size")
        self._parts.append(answer)


class Lookup:
    """A batch of (method, taskhash) pairs as questions, one for each method and kind of hash, and back in order.

    One method and hashes of 64 hex digits, which is what builds ask, take about 140 ns a pair.
    Raises ValueError for a method or taskhash that is not one word, TypeError for what is no pair.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        pairs = list(pairs)
        # Two comprehensions at 12 ns a pair; zip(*pairs) takes 60.
        try:
            methods = [method for method, _ in pairs]
            taskhashes = [taskhash for _, taskhash in pairs]
        except (TypeError, ValueError):
            raise TypeError(f"a lookup takes pairs (method, taskhash), not {_no_pair(pairs)}") from None
        self._size = len(methods)
        self._parts: list[tuple[UnihashesOfDigests | UnihashesOfTexts, Sequence[int]]] = []
        if not methods:
            return
        if methods.count(methods[0]) == self._size:
            self._add(methods[0], taskhashes, range(self._size))
            return
        places: dict[str, list[int]] = {}
        for place, method in enumerate(methods):  # 60 ns each; a build has one method everywhere
            places.setdefault(method, []).append(place)
        for method, where in places.items():
            self._add(method, [taskhashes[place] for place in where], where)

    @property
    def questions(self) -> list[UnihashesOfDigests | UnihashesOfTexts]:
        """The questions to ask, in any order."""
        return [question for question, _ in self._parts]

    def unihashes(self) -> list[str | None]:
        """The answers in the order of the pairs, when all questions are complete."""
        if len(self._parts) == 1:
            return self._parts[0][0].unihashes()
        answers: list[str | None] = [None] * self._size
        for question, places in self._parts:
            for place, unihash in zip(places, question.unihashes(), strict=True):
                answers[place] = unihash
        return answers

    def _add(self, method: str, taskhashes: Sequence[str], places: Sequence[int]) -> None:
        digests = join_digests(taskhashes)
        if digests is not None:
            self._parts.append((UnihashesOfDigests(method, digests), places))
            return
        # Some hash is not 64 hex digits, so each is looked at: about 200 ns.
        for kind in (True, False):
            chosen = [
                (place, text)
                for place, text in zip(places, taskhashes, strict=True)
                if (join_digests([text]) is not None) is kind
            ]
            if chosen:
                where, texts = map(list, zip(*chosen, strict=True))
                self._parts.append((self._question(method, texts, digests=kind), where))

    @staticmethod
    def _question(method: str, texts: list[str], *, digests: bool) -> UnihashesOfDigests | UnihashesOfTexts:
        if digests:
            return UnihashesOfDigests(method, unhexlify("".join(texts)))
        return UnihashesOfTexts(method, texts)


def _no_pair(pairs: Sequence[Any]) -> str:
    """The first item that is no pair, in short."""
    return next((repr(item)[:200] for item in pairs if not isinstance(item, tuple | list) or len(item) != 2), "")


def hex_texts(digests: Buffer) -> list[str]:
    """The texts of digests that lie end to end; about 55 ns each."""
    return digests.hex("\n", DIGEST_SIZE).split("\n") if digests else []


def check_texts(given: Iterable[str], texts: Sequence[str]) -> None:
    """Raise TypeError for a single text, whose characters would be taken for hashes, and for what is no text."""
    if isinstance(given, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"hashes are a list of texts, not {given!r:.200}")


def check_words(words: Sequence[str], what: str) -> None:
    """Raise ValueError unless each is one word: white space in one would ask the server another question."""
    if " ".join(words).split() != list(words):
        wrong = next(word for word in words if word.split() != [word])
        raise ValueError(f"{what} {wrong!r} is not one word: it must be neither empty nor hold white space")


def _with_method(method: str, taskhashes: Sequence[str]) -> list[str]:
    """``METHOD TASKHASH`` for each; about 60 ns."""
    prefix = method + " "
    return [prefix + taskhash for taskhash in taskhashes]


def _get_batch(method: str, taskhashes: list[str]) -> object:
    return {"get-batch": {"method": method, "taskhashes": taskhashes}}


def _found(answers: list[str]) -> Found:
    """Unihashes as text, "" where unknown, as Found. Raises ValueError for one that is not 64 hex digits."""
    unknown = "" in answers
    digests = join_digests([text or "0" * _HEX_SIZE for text in answers] if unknown else answers)
    if digests is None:
        raise ValueError("a unihash is 64 lowercase hex digits")
    return Found(digests, bytes(map(bool, answers)) if unknown else None)


def _unihash_list(answer: object, expected: int) -> list[str | None]:
    return _list(answer, "unihashes", expected)


def _list(answer: object, key: str, expected: int) -> list[Any]:
    """The list under the key of a JSON answer. Raises KeyError, TypeError or ValueError."""
    if not isinstance(answer, dict):
        raise TypeError
    items = answer[key]
    if not isinstance(items, list) or len(items) != expected:
        raise ValueError
    return items
