"""Questions, purely: any mix of pairs, answered in any forms and portions, comes back in order."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.client.questions import (
    DigestQuestion,
    ExistenceOfDigests,
    Lookup,
    Question,
    UnihashesOfDigests,
    UnihashesOfTexts,
    hex_texts,
)
from shardhash.errors import ProtocolError
from shardhash.wire.batch import EXISTS, Found, decode_request, encode_exists, encode_found
from shardhash.wire.hashes import is_digest_text, join_digests

HASHES = [f"{i:064x}" for i in range(4)] + ["A" * 64, "short", "ü" * 64, "g" * 64, "0" * 40]
METHODS = ["oe.sstatesig.OEOuthashBasic", "other", "ü"]
PAIRS = st.tuples(st.sampled_from(METHODS), st.sampled_from(HASHES))
FORMS = st.lists(st.tuples(st.sampled_from(["lines", "messages", "frames"]), st.integers(1, 5)), max_size=20)


def unihash_of(method: str, taskhash: str) -> str | None:
    """What the imagined server knows: some taskhashes have a unihash, others none."""
    number = METHODS.index(method) * len(HASHES) + HASHES.index(taskhash)
    return None if number % 3 == 0 else f"{number:064x}"


def answer_lines(question: Question, count: int) -> None:
    """Answer the next `count` hashes as a stream does."""
    lines = question.lines()[:count]
    if isinstance(question, ExistenceOfDigests):
        question.take_lines([b"true" if int(line, 16) % 2 else b"false" for line in lines])
    else:
        pairs = [line.split(" ") for line in lines]
        question.take_lines([(unihash_of(method, taskhash) or "").encode() for method, taskhash in pairs])


def answer_message(question: Question, count: int) -> None:
    """Answer a JSON request for the next `count` hashes."""
    expected = question.block_sizes(count)[0]
    ((name, fields),) = orjson.loads(question.messages(count)[0]).items()
    if name == "exists-batch":
        question.take_answer({"exists": [bool(int(unihash, 16) % 2) for unihash in fields["unihashes"]]}, expected)
    else:
        unihashes = [unihash_of(fields["method"], taskhash) for taskhash in fields["taskhashes"]]
        question.take_answer({"unihashes": unihashes}, expected)


def answer_frame(question: Question, count: int) -> None:
    """Answer a binary request for the next `count` hashes, if the question can be asked so."""
    if not isinstance(question, DigestQuestion):
        return
    expected = question.block_sizes(count)[0]
    request = decode_request(next(iter(question.frames(count))))
    texts = hex_texts(request.digests)
    if request.op == EXISTS:
        question.take_frame(encode_exists(bytes(int(text, 16) % 2 for text in texts)), expected)
        return
    unihashes = [unihash_of(request.method, text) for text in texts]
    found = Found.of([None if unihash is None else bytes.fromhex(unihash) for unihash in unihashes])
    question.take_frame(encode_found(found), expected)


def answer(question: Question, forms: list[tuple[str, int]]) -> None:
    """Answer all of a question, in these forms and portions, and the rest as lines."""
    ways = {"lines": answer_lines, "messages": answer_message, "frames": answer_frame}
    for form, count in forms:
        if not question.complete:
            ways[form](question, count)
    answer_lines(question, question.size)
    assert question.complete
    assert not question.lines()
    assert not question.messages(1)
    assert not question.block_sizes(1)


@given(st.lists(PAIRS), FORMS)
def test_a_lookup_comes_back_in_order(pairs: list[tuple[str, str]], forms: list[tuple[str, int]]) -> None:
    lookup = Lookup(iter(pairs))
    assert sum(question.size for question in lookup.questions) == len(pairs)
    for question in lookup.questions:
        answer(question, forms)
    assert lookup.unihashes() == [unihash_of(*pair) for pair in pairs]


@given(st.lists(st.integers(0, 1000)), FORMS)
def test_existence_comes_back_in_order(numbers: list[int], forms: list[tuple[str, int]]) -> None:
    question = ExistenceOfDigests(b"".join(number.to_bytes(32) for number in numbers))
    answer(question, forms)
    assert question.status() == bytes(number % 2 for number in numbers)


@given(st.lists(st.text(max_size=70) | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)))
def test_digests_are_those_of_digest_texts(hashes: list[str]) -> None:
    digests = join_digests(hashes)
    assert (digests is not None) is all(map(is_digest_text, hashes))
    if digests is not None:
        assert hex_texts(digests) == hashes


def test_whole_digests_only() -> None:
    with pytest.raises(ValueError, match="33 bytes"):
        UnihashesOfDigests("m", bytes(33))


def questions() -> list[Question]:
    """One of each, of two hashes."""
    return [UnihashesOfDigests("m", bytes(64)), UnihashesOfTexts("m", ["a", "b"]), ExistenceOfDigests(bytes(64))]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("lines", [[b"yes"], [b"true "], [b"\xff" * 64], [b"A" * 64], [b"", b"", b"x"], [b"a\nb"]])
def test_malformed_lines_are_refused(kind: int, lines: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        questions()[kind].take_lines(lines)


@pytest.mark.parametrize("kind", range(3))
def test_too_many_lines_are_refused(kind: int) -> None:
    lines = [b"true"] * 3 if kind == 2 else [b""] * 3
    with pytest.raises(ProtocolError, match="3 answers"):
        questions()[kind].take_lines(lines)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "ok",
        {},
        *({key: value} for key in ("unihashes", "exists") for value in (None, [None], ["x", 1], "ab")),
    ],
)
def test_malformed_answers_are_refused(kind: int, wrong: object) -> None:
    with pytest.raises(ProtocolError):
        questions()[kind].take_answer(wrong, 2)


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"x" * 8,
        encode_found(Found(bytes(32), None)),
        encode_exists(bytes(3)),
        encode_found(Found(bytes(96), None)),
    ],
)
def test_malformed_frames_are_refused(kind: int, frame: bytes) -> None:
    question = questions()[kind]
    assert isinstance(question, DigestQuestion)
    with pytest.raises(ProtocolError):
        question.take_frame(frame, 2)
