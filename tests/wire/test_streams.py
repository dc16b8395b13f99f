"""Stream modes: the fast way and the slow way give what a line by line reading gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import ProtocolError
from shardhash.wire import streams
from shardhash.wire.batch import Found
from shardhash.wire.fields import MAX_TOKEN
from shardhash.wire.hashes import is_digest_text, to_key
from shardhash.wire.streams import LookupBlock, group_taskhashes, parse_exists_lines, parse_get_lines

hex64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
methods = st.sampled_from(["m", "oe.sstatesig.OEOuthashBasic", "é"])
hashes = hex64 | st.sampled_from(["short", "f" * 40, "F" * 64, "g" * 64, "0" * 64, "é" * 32])
spaces = st.sampled_from([" ", "  ", "\t", "\u00a0", "\x1c", " \v"])


def text_of(lines: list[str]) -> bytes:
    """A block of these lines."""
    return "".join(line + "\n" for line in lines).encode()


def asked(block: LookupBlock) -> list[tuple[str, bytes | str]]:
    """What a block asks, in order, after checks of the rules that its groups keep."""
    order: list[tuple[str, bytes | str] | None] = [None] * block.size
    for method, keys, places in block.groups:
        listed = [keys[i : i + 32] for i in range(0, len(keys), 32)] if isinstance(keys, bytes) else keys
        assert isinstance(keys, bytes) or not any(isinstance(key, bytes) for key in keys)
        for place, key in zip(range(block.size) if places is None else places, listed, strict=True):
            order[place] = method, key
    return [one for one in order if one is not None]


def answer(block: LookupBlock, known: dict[tuple[str, bytes | str], bytes]) -> Found:
    """The answers of a store that knows these."""
    answers = []
    for method, keys, _ in block.groups:
        listed = [keys[i : i + 32] for i in range(0, len(keys), 32)] if isinstance(keys, bytes) else keys
        answers.append(Found.of([known.get((method, key)) for key in listed]))
    return block.join(answers)


@given(st.lists(st.tuples(methods, hashes, spaces), min_size=1, max_size=6))
def test_get_lines(lookups: list[tuple[str, str, str]]) -> None:
    block = parse_get_lines(text_of([method + space + taskhash for method, taskhash, space in lookups]))
    expected = [(method, to_key(taskhash)) for method, taskhash, _ in lookups]
    assert block.size == len(lookups)
    assert asked(block) == expected
    unihashes = {lookup: bytes([place] * 32) for place, lookup in enumerate(expected) if place % 2}
    assert answer(block, unihashes).unihashes() == [unihashes.get(lookup) for lookup in expected]


@given(methods, st.lists(hex64, min_size=1, max_size=6))
def test_real_traffic_is_one_group_of_digests(method: str, taskhashes: list[str]) -> None:
    block = parse_get_lines(text_of([f"{method} {taskhash}" for taskhash in taskhashes]))
    assert block.groups == [(method, bytes.fromhex("".join(taskhashes)), None)]
    assert group_taskhashes(method, taskhashes) == block


@given(methods, st.lists(hashes, min_size=1, max_size=6))
def test_batch_asks_what_lines_ask(method: str, taskhashes: list[str]) -> None:
    block = group_taskhashes(method, taskhashes)
    assert asked(block) == [(method, to_key(taskhash)) for taskhash in taskhashes]


def test_an_empty_batch() -> None:
    block = group_taskhashes("m", [])
    assert answer(block, {}) == Found(b"", None)


@pytest.mark.parametrize("odd", [[], ["short"], ["F" * 64], ["g" * 64]])
def test_a_long_batch_is_asked_in_blocks(odd: list[str]) -> None:
    """The fewer at one time, the longer each takes."""
    hashes = [f"{number:064x}" for number in range(streams.HASHES_AT_ONCE)] * 2 + odd + ["0" * 64] * 1500
    most = [streams.HASHES_AT_ONCE] * 2 + ([streams.ODD_AT_ONCE] * 2 if odd else [1500])
    lookups = list(streams.taskhash_blocks("m", hashes))
    checks = list(streams.unihash_blocks(hashes))
    assert [one for block in lookups for one in asked(block)] == [("m", to_key(taskhash)) for taskhash in hashes]
    status = b"".join(block.join(b"\1" * (len(block.digests) // 32)) for block in checks)
    assert status == bytes(map(is_digest_text, hashes))
    assert all(block.size <= limit for block, limit in zip(lookups, most, strict=True))
    assert len(checks) == len(lookups)


H = "ab" * 32


@pytest.mark.parametrize(
    "lines",
    [
        ["one-token"],
        [""],
        [f"m {H}", "one-token"],
        [f"m {H}", ""],
        [f"m {H} x"],
        [f"a\u00a0b {H}", f"a\u00a0b {H}"],
        [f"a\x1cb {H}"],
        [f" {H}", f" {H}"],
        [H, H],
        [f"m m {H}", H + "--"],  # as many prefixes as lines, and as many bytes
        ["m " * MAX_TOKEN],
        [f"{'m' * (MAX_TOKEN + 1)} {H}"],
        [f"{'m' * (MAX_TOKEN + 1)} x"],
    ],
)
def test_get_line_that_is_not_two_tokens(lines: list[str]) -> None:
    with pytest.raises(ProtocolError):
        parse_get_lines(text_of(lines))


@pytest.mark.parametrize("line", [b"\xff " + H.encode(), b"m \xff", b"\xff"])
def test_line_that_is_not_utf8(line: bytes) -> None:
    for parse in (parse_get_lines, parse_exists_lines, streams.parse_mark_lines):
        with pytest.raises(ProtocolError):
            parse(line + b"\n")


@given(st.binary().filter(lambda data: b"\n" not in data).map(lambda data: data + b"\n"))
def test_any_lines_are_taken_or_refused(text: bytes) -> None:
    for parse in (parse_get_lines, parse_exists_lines, streams.parse_mark_lines):
        for block in (text, text * 3, f"m {H}\n".encode() + text):
            try:
                parse(block)
            except ProtocolError:
                pass


@given(st.lists(hashes, min_size=1, max_size=6), st.sampled_from(["", " "]))
def test_exists_lines(unihashes: list[str], space: str) -> None:
    block = parse_exists_lines(text_of([unihash + space for unihash in unihashes]))
    good = [unihash for unihash in unihashes if is_digest_text(unihash)]
    assert block.digests == bytes.fromhex("".join(good))
    assert (block.well_formed is None) == (len(good) == len(unihashes))
    status = block.join(b"\1" * len(good))
    assert status == bytes(map(is_digest_text, unihashes))
    assert streams.encode_exists_lines(status).decode().split() == [
        "true" if is_digest_text(unihash) else "false" for unihash in unihashes
    ]
    assert streams.check_unihashes(unihashes) == block


@pytest.mark.parametrize("line", ["", f"{H} {H}", "a\u00a0b"])
def test_exists_line_that_is_not_one_token(line: str) -> None:
    with pytest.raises(ProtocolError):
        parse_exists_lines(text_of([H, line]))


ZERO = bytes(32)


@given(st.lists(st.none() | st.just(ZERO) | st.binary(min_size=32, max_size=32), max_size=8))
def test_found_lines(unihashes: list[bytes | None]) -> None:
    lines = streams.encode_found_lines(Found.of(unihashes))
    assert lines == b"".join(b"%b\n" % (unihash or b"").hex().encode() for unihash in unihashes)


@pytest.mark.parametrize("unknown", [0, 3, 150, 1100, 1200])
@pytest.mark.parametrize("zeros", [0, 2])
def test_found_lines_of_a_long_block(unknown: int, zeros: int) -> None:
    """However many are unknown, and where known unihashes look like unknown ones."""
    unihashes = [None if place * 7 % 1200 < unknown else bytes([place % 255 + 1]) * 32 for place in range(1200)]
    for place in [place for place, unihash in enumerate(unihashes) if unihash][:zeros]:
        unihashes[place] = bytes(32)
    lines = streams.encode_found_lines(Found.of(unihashes))
    assert lines == b"".join(b"%b\n" % (unihash or b"").hex().encode() for unihash in unihashes)


def test_mark_lines() -> None:
    text = b'{"mark": "a", "where": {"unihash": "x"}}\n{"where": {"id": 1, "task": null}, "mark": "b c"}\n'
    assert streams.parse_mark_lines(text) == [("a", {"unihash": "x"}), ("b c", {})]
    assert streams.encode_mark_lines([2, 0]) == b'{"count": 2}\n{"count": 0}\n'


def test_marks_of_unihashes_are_read_as_all_others() -> None:
    """The quick way and the slow way: what the quick one leaves to the other gets the same answer."""
    lines = [f'{{"mark": "{mark}", "where": {{"unihash": "{H[:-1]}{mark}"}}}}' for mark in "abc"]
    expected = [(mark, {"unihash": H[:-1] + mark}) for mark in "abc"]
    assert streams.parse_mark_lines(text_of(lines)) == expected
    assert streams.parse_mark_lines(text_of([*lines, '{"mark": "d e", "where": {}}'])) == [*expected, ("d e", {})]
    for bad in ("", "\\u0000", "x" * 1025):
        with pytest.raises(ProtocolError):
            streams.parse_mark_lines(text_of([*lines, lines[0].replace('"a"', f'"{bad}"')]))


@pytest.mark.parametrize("line", ["", "x", "[]", '{"mark": "a"}', '{"mark": 1, "where": {}}', "[" * 5000])
def test_malformed_mark_line(line: str) -> None:
    with pytest.raises(ProtocolError):
        streams.parse_mark_lines(text_of(['{"mark": "a", "where": {}}', line]))
