"""The parser of the command lines: what it takes for an option, a value and a command."""

from __future__ import annotations

import pytest

from shardhash.base.parser import Parser, did_you_mean


@pytest.fixture
def parser() -> Parser:
    parser = Parser("prog", allow_abbrev=False)
    parser.add_argument("--user", "-u")
    parser.add_argument("--quick", "-q", action="store_true")
    parser.add_argument("--loud", "-l", action="store_true")
    work = parser.add_subparsers().add_parser("work", allow_abbrev=False)
    work.outer = parser
    work.add_argument("number", type=int)
    work.add_argument("--pair", nargs=2)
    return parser


@pytest.mark.parametrize(
    "words",
    [
        "work 5",
        "work -5",
        "work -- -5",
        "--user joe -q work 5",
        "--user=joe work 5",
        "-ujoe -ql work 5",
        "-qu joe work 5",
        "work 5 --pair a b",
    ],
)
def test_what_argparse_takes_is_taken(parser: Parser, words: str) -> None:
    assert abs(parser.parse_args(words.split()).number) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--usr joe work 5", "prog: error: there is no option --usr; did you mean --user?"),
        ("-Q work 5", "prog: error: there is no option -Q; did you mean -q?"),
        ("-x work 5", "prog: error: there is no option -x; prog --help names them all"),
        ("-qu joe wrok 5", "prog: error: there is no command 'wrok'; did you mean work?"),
        ("work --pear a b", "prog work: error: there is no option --pear; did you mean --pair?"),
        ("work --user joe", "prog work: error: --user stands before the command: prog --user ... work"),
        ("work 5 6", "prog work: error: '6' is one argument too many"),
        ("--user", "prog: error: argument --user/-u: expected one argument"),
    ],
)
def test_the_error_names_what_is_wrong(
    parser: Parser, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(words.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "near"),
    [("--date", "--data"), ("--DATA", "--data"), ("--bnid", "--bind"), ("--zeal", None)],
)
def test_what_is_near(name: str, near: str | None) -> None:
    assert did_you_mean(name, ["--data", "--bind", "--sync"]) == (f"; did you mean {near}?" if near else "")
