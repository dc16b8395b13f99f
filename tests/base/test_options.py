"""Options: flags, variables and defaults, and the values that they take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import pytest

from shardhash.base import options
from shardhash.base.options import Options
from shardhash.base.parser import Parser
from shardhash.errors import ConfigError


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    known = Options(Parser("prog"))
    known.add("--count", "NEW_COUNT", "OLD_COUNT", convert=options.whole(1, 9), default=5, help="")
    known.add("--place", "PLACES", repeatable=True, default=["here"], help="")
    known.switch("--quick", "QUICK", help="")
    known.add("--secret", "SECRET", help="")
    return known.parse(arguments, environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "count"),
    [
        ([], {}, 5),
        ([], {"OLD_COUNT": "2"}, 2),
        ([], {"OLD_COUNT": "2", "NEW_COUNT": "3"}, 3),
        ([], {"OLD_COUNT": "2", "NEW_COUNT": " "}, 2),
        (["--count", "4"], {"OLD_COUNT": "2", "NEW_COUNT": "wrong"}, 4),
    ],
)
def test_the_flag_wins_then_the_first_variable(arguments: list[str], environment: dict[str, str], count: int) -> None:
    assert parse(arguments, environment).count == count


def test_lists_and_switches() -> None:
    parsed = parse([], {"PLACES": " a  b\n", "QUICK": "0"})
    assert (parsed.place, parsed.quick) == (["a", "b"], False)
    parsed = parse(["--place", "c", "--place", "d", "--quick"], {"PLACES": "a", "QUICK": "0"})
    assert (parsed.place, parsed.quick) == (["c", "d"], True)
    parsed = parse([], {"QUICK": "1"})
    assert (parsed.place, parsed.quick) == (["here"], True)


def test_white_space_of_a_secret_counts() -> None:
    assert parse([], {"SECRET": " a b "}).secret == " a b "


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--count", "0"], {}, "--count: '0' is not a whole number from 1 to 9"),
        ([], {"OLD_COUNT": "many"}, "OLD_COUNT: 'many' is not a whole number from 1 to 9"),
        ([], {"QUICK": "perhaps"}, "QUICK: 'perhaps' is neither 1 nor 0"),
    ],
)
def test_errors_say_where_the_value_comes_from(
    arguments: list[str], environment: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments, environment)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_values() -> None:
    assert [options.seconds(text) for text in ("2", "0.5", "90s", "15m", "1.5h", "1d")] == [
        2,
        0.5,
        90,
        900,
        5400,
        86400,
    ]
    assert [options.size(text) for text in ("1", "2k", "64M", "1G")] == [1, 2048, 64 << 20, 1 << 30]
    assert options.choice("always", "off")("OFF") == "off"


@pytest.mark.parametrize("text", ["", "0", "-1", "1w", "nan", "inf", "1e3", "\u0661", "1 s"])
def test_no_span(text: str) -> None:
    with pytest.raises(ConfigError, match="span of time"):
        options.seconds(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1T", "1.5M", "\u0661"])
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        options.size(text)


def test_moments() -> None:
    assert options.timestamp("1970-01-01T00:00:01") == 1_000_000
    assert options.timestamp("1970-01-01T01:00+01:00") == 0
    assert options.timestamp("2026-11-23") % 86_400_000_000 == 0
    with pytest.raises(ConfigError, match="'yesterday' is not a time: write 2026-11-23T18:00"):
        options.timestamp("yesterday")
