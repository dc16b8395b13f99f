"""Messages: every command reads its fields, and refuses by name what it cannot use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.errors import InvalidRequestError
from shardhash.wire import messages as m
from shardhash.wire.collecting import Collect
from shardhash.wire.commands import COMMANDS, READ_ONLY_COMMANDS, parse_request
from shardhash.wire.fields import MAX_SECONDS, MAX_TOKEN, Fields
from shardhash.wire.imports import ImportBatch, ImportedMapping, ImportedRow, ImportedUser
from shardhash.wire.jsontext import decode
from shardhash.wire.messages import Request
from shardhash.wire.rows import COLUMNS, QUERY_COLUMNS, Report
from shardhash.wire.search import NAMES
from shardhash.wire.values import MAX_TEXT

H = "f0" * 32
MAPPING = {"method": "m", "taskhash": "t"}
REPORT = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H}


def ask(message: object) -> Request:
    """The request in a message, which must hold a known command."""
    asked = parse_request(COMMANDS, message)
    assert asked is not None
    return asked[1]


def refusal(message: object) -> str:
    """What is said against a message."""
    with pytest.raises(InvalidRequestError) as caught:
        ask(message)
    return str(caught.value)


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ({"ping": {}}, m.Ping()),
        ({"ping": None}, m.Ping()),
        ({"get": {"method": "m", "taskhash": "t"}}, m.Get("m", "t", all=False)),
        ({"get": {"method": "m", "taskhash": "t", "all": True, "x": 1}}, m.Get("m", "t", all=True)),
        ({"get": {"method": "m", "taskhash": "t", "all": None}}, m.Get("m", "t", all=False)),
        ({"get-outhash": {"method": "m", "outhash": "o", "taskhash": "t"}}, m.GetOuthash("m", "o", "t", True)),
        ({"get-outhash": {"method": "m", "outhash": "o", "taskhash": ""}}, m.GetOuthash("m", "o", "", True)),
        (
            {"get-outhash": {"method": "m", "outhash": "o", "taskhash": "t", "with_unihash": False}},
            m.GetOuthash("m", "o", "t", False),
        ),
        (
            {"report": {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H, "PN": None, "extra": 1}},
            Report("m", "t", "o", H),
        ),
        (
            {
                "report": {
                    "method": "m", "taskhash": "t", "outhash": "o", "unihash": H, "owner": "w w", "PN": "n",
                    "PV": "v", "PR": "", "task": "k", "outhash_siginfo": "é\n" * MAX_TEXT,
                }
            },
            Report("m", "t", "o", H, "w w", "n", "v", "", "k", "é\n" * MAX_TEXT),
        ),
        (
            {"report-batch": {"reports": [dict(REPORT), {**REPORT, "taskhash": "u", "PN": "n"}]}},
            m.ReportBatch([Report("m", "t", "o", H), Report("m", "u", "o", H, PN="n")]),
        ),
        ({"report-batch": {"reports": []}}, m.ReportBatch([])),
        ({"report-equiv": {"method": "m", "taskhash": "t", "unihash": H}}, m.ReportEquiv("m", "t", H)),
        ({"remove": {"where": {"method": "m", "task": None, "id": 3, "created": []}}}, m.Remove({"method": "m"})),
        ({"clean-unused": {"max_age_seconds": 0}}, m.CleanUnused(0)),
        ({"clean-unused": {"max_age_seconds": 0.25}}, m.CleanUnused(1)),
        ({"gc-mark": {"mark": "a b", "where": {}}}, m.GcMark("a b", {})),
        ({"gc-status": {}}, m.GcStatus()),
        ({"gc-sweep": {"mark": "a"}}, m.GcSweep("a")),
        ({"get-stats": None}, m.GetStats()),
        ({"reset-stats": None}, m.ResetStats()),
        ({"get-db-usage": {}}, m.GetDbUsage()),
        ({"get-db-query-columns": {}}, m.GetDbQueryColumns()),
        ({"backfill-wait": None}, m.BackfillWait()),
        ({"auth": {"username": "u", "token": "t"}}, m.Auth("u", "t")),
        ({"refresh-token": {}}, m.RefreshToken(None)),
        ({"refresh-token": {"username": "u v"}}, m.RefreshToken("u v")),
        ({"refresh-token": {"expires_in": 0}}, m.RefreshToken(None, 0)),
        ({"set-user-perms": {"username": "u", "permissions": ["@read"]}}, m.SetUserPerms("u", ("@read",))),
        ({"get-user": {"username": None}}, m.GetUser(None)),
        ({"get-all-users": {}}, m.GetAllUsers()),
        ({"list-users": {}}, m.ListUsers()),
        ({"new-user": {"username": "u", "permissions": [], "expires_in": 60}}, m.NewUser("u", (), 60)),
        ({"new-user": {"username": "u", "permissions": []}}, m.NewUser("u", ())),
        ({"delete-user": {}}, m.DeleteUser(None)),
        ({"become-user": {"username": "u"}}, m.BecomeUser("u")),
        ({"get-stream": None}, m.GetStream()),
        ({"exists-stream": None}, m.ExistsStream()),
        ({"gc-mark-stream": None}, m.GcMarkStream()),
        ({"get-batch": {"method": "m", "taskhashes": ["a", "é", H]}}, m.GetBatch("m", ["a", "é", H])),
        ({"get-batch": {"method": "m", "taskhashes": []}}, m.GetBatch("m", [])),
        ({"find": {"where": {"PN": "zlib*", "owner": None}, "limit": 5}}, m.Find({"PN": "zlib*"}, 5)),
        ({"find": {"where": {"taskhash": "0123abcd"}}}, m.Find({"taskhash": "0123abcd"}, 100)),
        ({"diverging": {}}, m.Diverging({}, 50)),
        ({"why": {"taskhash": H}}, m.Why(H, None, None, None)),
        ({"get-row": {"method": "m", "taskhash": "a", "outhash": H}}, m.GetRow("m", "a", H)),
        ({"saved": {"since": "2026-11-28"}}, m.Saved("2026-11-28")),
        ({"guess": {"method": "m", "tasks": [["zlib", "compile"]]}}, m.Guess("m", [("zlib", "compile")])),
        ({"quarantine": {"where": {"PN": "x"}, "reason": "r"}}, m.Quarantine({"PN": "x"}, "r", preview=False)),
        ({"quarantines": {}}, m.Quarantines()),
        ({"release": {"name": "q"}}, m.Release("q")),
        ({"discard": {"rows": [{"method": "m", "taskhash": "t", "outhash": "o"}]}}, m.Discard([("m", "t", "o")])),
        ({"forwarding": {}}, m.Forwarding(10)),
        ({"forwarding": {"limit": 0}}, m.Forwarding(0)),
        ({"forward-refused": None}, m.ForwardRefused()),
        ({"drop-refused": {}}, m.DropRefused()),
        ({"collect": {"step": "begin"}}, Collect("begin")),
        ({"collect": {"step": "keep", "collection": "c", "unihashes": [H]}}, Collect("keep", "c", [H])),
        ({"collect": {"step": "show", "collection": "c", "after": 5}}, Collect("show", "c", after=5)),
        (
            {"collect": {"step": "take", "collection": "c", "mappings": [{**MAPPING, "unihash": H}]}},
            Collect("take", "c", mappings=[("m", "t", H)]),
        ),
        ({"exists-batch": {"unihashes": [H]}}, m.ExistsBatch([H])),
        ({"import-batch": {}}, ImportBatch([], [], [])),
        (
            {
                "import-batch": {
                    "mappings": [{"method": "m", "taskhash": "t", "unihash": H}],
                    "rows": [{"method": "m", "taskhash": "t", "outhash": "o", "created": 5, "PN": "é", "task": None}],
                    "users": [{"username": "u", "token": "a:b:c", "permissions": ["@read"]}],
                }
            },
            ImportBatch(
                [ImportedMapping("m", "t", H)],
                [ImportedRow("m", "t", "o", 5, PN="é")],
                [ImportedUser("u", "a:b:c", ("@read",))],
            ),
        ),
        ({"unknown": 1, "ping": {}}, m.Ping()),
    ],
)  # fmt: skip
def test_request(message: object, request_: Request) -> None:
    assert ask(decode(json.dumps(message))) == request_


def test_every_command_is_tested_here() -> None:
    (mark,) = [mark for mark in test_request.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {name for message, _ in mark.args[1] for name in message} >= set(COMMANDS)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ([], "a request must be an object with one command, not a list"),
        ("get", "a request must be an object with one command, not text"),
        (None, "a request must be an object with one command, not null"),
        (5, "a request must be an object with one command, not a number"),
        (True, "a request must be an object with one command, not true"),
        ({"ping": {}, "get-stats": None}, "a request must have one command, not ping and get-stats together"),
        ({"get": None}, "get: its fields must be an object, not null"),
        ({"get": {"method": "m"}}, "get: 'taskhash' is missing"),
        ({"get": {"method": 5, "taskhash": "t"}}, "get: 'method' must be text, not a number"),
        ({"get": {"method": {}, "taskhash": "t"}}, "get: 'method' must be text, not an object"),
        ({"get": {"method": "", "taskhash": "t"}}, "get: 'method' must not be empty"),
        ({"get": {"method": "m", "taskhash": "a b"}}, "get: 'taskhash' must not hold white space"),
        ({"get": {"method": "m", "taskhash": "a\u00a0b"}}, "get: 'taskhash' must not hold white space"),
        ({"get": {"method": "m", "taskhash": "a\x1cb"}}, "get: 'taskhash' must not hold white space"),
        ({"get": {"method": "m", "taskhash": "a\n"}}, "get: 'taskhash' must not hold white space"),
        ({"get": {"method": "m", "taskhash": "a\0"}}, "get: 'taskhash' must not hold a NUL"),
        ({"get": {"method": "m", "taskhash": "\ud800"}}, "get: 'taskhash' must not hold half a surrogate pair"),
        (
            {"get": {"method": "m", "taskhash": "a" * (MAX_TOKEN + 1)}},
            "get: 'taskhash' has 1025 characters; at most 1024 are taken",
        ),
        ({"get": {"method": "m", "taskhash": "t", "all": 1}}, "get: 'all' must be true or false, not a number"),
        ({"report": {"method": "m", "taskhash": "t", "unihash": H}}, "report: 'outhash' is missing"),
        ({"report": {"method": "m", "taskhash": "t", "outhash": "o"}}, "report: 'unihash' is missing"),
        (
            {"report": {"method": "m", "taskhash": "t", "outhash": "o", "unihash": None}},
            "Invalid unihash",
        ),
        ({"report": {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H.upper()}}, "Invalid unihash"),
        ({"report-batch": {}}, "report-batch: 'reports' is missing"),
        (
            {"report-batch": {"reports": dict(REPORT)}},
            "report-batch: 'reports' must be a list of objects, not an object",
        ),
        (
            {"report-batch": {"reports": [REPORT, 1]}},
            "report-batch: 'reports': 2: its fields must be an object, not a number",
        ),
        ({"report-batch": {"reports": [H]}}, "report-batch: 'reports': 1: its fields must be an object, not text"),
        ({"report-batch": {"reports": [None]}}, "report-batch: 'reports': 1: its fields must be an object, not null"),
        (
            {"report-batch": {"reports": [REPORT, REPORT, {**REPORT, "outhash": "a b"}]}},
            "report-batch: 'reports': 3: 'outhash' must not hold white space",
        ),
        ({"report-batch": {"reports": [{**REPORT, "unihash": "x"}]}}, "Invalid unihash"),
        ({"import-batch": {"mappings": {}}}, "import-batch: 'mappings' must be a list of objects, not an object"),
        ({"import-batch": {"mappings": [{**MAPPING, "unihash": "x"}]}}, "Invalid unihash"),
        (
            {"import-batch": {"rows": [{"method": "m", "taskhash": "t", "outhash": "o", "created": -1}]}},
            "import-batch: 'rows': 1: 'created' must be microseconds since 1970, up to the year 9999",
        ),
        (
            {"import-batch": {"rows": [{"method": "m", "taskhash": "t", "outhash": "o", "created": True}]}},
            "import-batch: 'rows': 1: 'created' must be microseconds since 1970, up to the year 9999",
        ),
        ({"import-batch": {"users": [{"username": "u"}]}}, "import-batch: 'users': 1: 'token' is missing"),
        ({"report-equiv": {"method": "m", "taskhash": "t", "unihash": H + "\n"}}, "Invalid unihash"),
        ({"report-equiv": {"method": "m", "taskhash": "t", "unihash": "\u0661" * 64}}, "Invalid unihash"),
        ({"remove": {}}, "remove: 'where' is missing"),
        ({"remove": {"where": "x"}}, "remove: 'where' must be an object of conditions, not text"),
        ({"remove": {"where": {"task": 1}}}, "remove: 'where': 'task' must be text, not a number"),
        ({"clean-unused": {}}, "clean-unused: 'max_age_seconds' is missing"),
        (
            {"clean-unused": {"max_age_seconds": "1"}},
            "clean-unused: 'max_age_seconds' must be a number of seconds, not text",
        ),
        (
            {"clean-unused": {"max_age_seconds": True}},
            "clean-unused: 'max_age_seconds' must be a number of seconds, not true",
        ),
        (
            {"clean-unused": {"max_age_seconds": -1}},
            f"clean-unused: 'max_age_seconds' must be from 0 to {MAX_SECONDS} seconds",
        ),
        ({"gc-mark": {"mark": "", "where": {}}}, "gc-mark: 'mark' must not be empty"),
        ({"gc-sweep": {"mark": None}}, "gc-sweep: 'mark' must be text, not null"),
        ({"new-user": {"username": "u"}}, "new-user: 'permissions' is missing"),
        ({"new-user": {"username": "u", "permissions": "@read"}}, "Unexpected type for permissions"),
        ({"new-user": {"username": "u", "permissions": [1]}}, "new-user: 'permissions' must hold nothing but texts"),
        ({"get-batch": {"method": "m"}}, "get-batch: 'taskhashes' is missing"),
        ({"find": {}}, "find: 'where' is missing"),
        ({"find": {"where": []}}, "find: 'where' must be an object of what to look for, not a list"),
        (
            {"find": {"where": {}}},
            f"find: 'where': it must name one of {', '.join(NAMES)} at least",
        ),
        (
            {"find": {"where": {"pn": "zlib"}}},
            f"find: 'where' takes {', '.join(NAMES)}, and not 'pn'",
        ),
        (
            {"discard": {"rows": [{"method": "m", "taskhash": "t"}]}},
            "discard: 'rows' must hold 1 to 1000 of method, taskhash and outhash",
        ),
        (
            {"collect": {"step": "run"}},
            "collect: 'step' must be one of begin, keep, keep-used, choose, show, take, end",
        ),
        (
            {
                "collect": {
                    "step": "take",
                    "collection": "c",
                    "mappings": [{"method": "m", "taskhash": "t", "unihash": "x"}],
                }
            },
            "collect: 'mappings' must hold 1 to 2000 of method, taskhash and unihash",
        ),
        ({"discard": {"rows": []}}, "discard: 'rows' must hold 1 to 1000 of method, taskhash and outhash"),
        ({"find": {"where": {"outhash": "0123"}}}, "find: 'where': 'outhash' needs 8 digits at least"),
        ({"forwarding": {"limit": 1001}}, "forwarding: 'limit' must be a whole number from 0 to 1000"),
        ({"find": {"where": {"PN": "x"}, "limit": 0}}, "find: 'limit' must be a whole number from 1 to 1000"),
        (
            {"get-batch": {"method": "m", "taskhashes": {}}},
            "get-batch: 'taskhashes' must be a list of texts, not an object",
        ),
        (
            {"get-batch": {"method": "m", "taskhashes": ["a", ""]}},
            "get-batch: 'taskhashes' must not hold empty texts or white space",
        ),
        (
            {"exists-batch": {"unihashes": ["a" * (MAX_TOKEN + 1)]}},
            "exists-batch: 'unihashes' must not hold texts of more than 1024 characters",
        ),
    ],
)
def test_refusal_names_field_finding_and_due(message: object, text: str) -> None:
    assert refusal(message) == text


@pytest.mark.parametrize("message", [{}, {"nope": 1}, {"chunk-stream": None}, {"Ping": {}}])
def test_unknown_command(message: object) -> None:
    assert parse_request(COMMANDS, message) is None


def test_nan_is_no_duration() -> None:
    assert "from 0 to" in refusal(decode(b'{"clean-unused": {"max_age_seconds": NaN}}'))


def test_secrets_are_not_shown() -> None:
    assert "hunter2" not in repr(ask({"auth": {"username": "u", "token": "hunter2"}}))


def test_table_of_the_protocol() -> None:
    """PROTOCOL, "Messages" and "Permissions", row by row."""
    needs = {name: " ".join(sorted(command.needs)) for name, command in COMMANDS.items()}
    assert needs == {
        "ping": "", "get": "@read", "get-outhash": "@read", "get-stream": "@read", "exists-stream": "@read",
        "find": "@read", "get-row": "@read", "diverging": "@read", "saved": "@read", "guess": "@read", "why": "@read",
        "quarantine": "@db-admin", "quarantines": "@db-admin", "release": "@db-admin", "discard": "@db-admin",
        "collect": "@db-admin", "forwarding": "@db-admin", "forward-refused": "@db-admin", "drop-refused": "@db-admin",
        "get-batch": "@read", "exists-batch": "@read", "report": "@read", "report-batch": "@read",
        "report-equiv": "@read @report",
        "import-batch": "@db-admin",
        "remove": "@db-admin", "clean-unused": "@db-admin", "gc-mark": "@db-admin", "gc-mark-stream": "@db-admin",
        "gc-status": "@db-admin", "gc-sweep": "@db-admin", "get-stats": "@read", "reset-stats": "@db-admin",
        "get-db-usage": "@read", "get-db-query-columns": "@db-admin", "backfill-wait": "@read", "auth": "",
        "refresh-token": "@user-admin", "set-user-perms": "@user-admin", "get-user": "@user-admin",
        "get-all-users": "@user-admin", "list-users": "@user-admin", "new-user": "@user-admin",
        "delete-user": "@user-admin", "become-user": "@user-admin",
    }  # fmt: skip
    assert {name for name, command in COMMANDS.items() if command.or_self} == {
        "refresh-token", "get-user", "delete-user",
    }  # fmt: skip
    assert set(COMMANDS) - set(READ_ONLY_COMMANDS) == {
        "report-equiv", "import-batch", "quarantine", "release", "discard", "collect",
        "forward-refused", "drop-refused",
        "remove", "gc-mark", "gc-mark-stream", "gc-status", "gc-sweep", "clean-unused", "reset-stats",
        "backfill-wait", "refresh-token", "set-user-perms", "new-user", "delete-user",
    }  # fmt: skip
    assert {name for name, command in COMMANDS.items() if command.stream} == {
        "get-stream", "exists-stream", "gc-mark-stream",
    }  # fmt: skip


FIELDS = [
    "method", "taskhash", "outhash", "unihash", "all", "with_unihash", "where", "mark", "max_age_seconds", "username",
    "token", "permissions", "expires_in", "taskhashes", "unihashes", "owner", "outhash_siginfo", "reports",
]  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(H)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from(QUERY_COLUMNS), scalars, max_size=3)


@given(st.sampled_from(sorted(COMMANDS)), values | st.dictionaries(st.sampled_from(FIELDS), values))
def test_any_fields_give_a_request_or_a_refusal(name: str, fields: Any) -> None:
    try:
        ask({name: fields})
    except InvalidRequestError as error:
        str(error).encode()  # it can be sent


KEYS = {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.5, "1.5"),
        (True, "True"),
        ("", ""),
        ("a\0b", "a\0b"),
        ("half \ud800 a pair", "half \ufffd\ufffd\ufffd a pair"),
        ("é" * (MAX_TEXT + 1), "é" * MAX_TEXT),
        ([1, {"x": None}], '[1,{"x":null}]'),
        (None, None),
    ],
)
def test_no_report_is_refused_for_the_form_of_an_optional_text(value: object, text: str | None) -> None:
    """A refusal would fail the build's task; the reference takes all of these."""
    given = {**KEYS, "PN": value, "no such column": [1]}
    expected = Report("m", "t", "o", H, PN=text)
    assert COMMANDS["report"].parse(given) == expected
    assert COMMANDS["report-batch"].parse({"reports": [KEYS, given]}) == m.ReportBatch(
        [Report("m", "t", "o", H), expected]
    )


def test_an_outhash_siginfo_may_be_long() -> None:
    given = {**KEYS, "outhash_siginfo": "x" * (MAX_TEXT + 1) + "\0"}
    (report,) = COMMANDS["report-batch"].parse({"reports": [given]}).reports  # type: ignore[union-attr]
    assert report.outhash_siginfo == "x" * (MAX_TEXT + 1) + "\0"


@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        (None, "a list of pairs"),
        ([["zlib"]], "pairs of short texts"),
        (["zlib"], "pairs of short texts"),
        ([["zlib", 1]], "pairs of short texts"),
        ([["zlib", "x" * 2_000_000]], "pairs of short texts"),
        ([["zlib", "compile"]] * 1001, "1001 tasks; at most 1000"),
    ],
)
def test_what_is_no_list_of_tasks_to_guess(tasks: object, what: str) -> None:
    assert what in refusal({"guess": {"method": "m", "tasks": tasks}})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(
                st.sampled_from([H, "", " ", "a b", "a\nb", "a\0b", "é", "\ud800", "x" * (MAX_TOKEN + 1), "t", "o"]),
                st.sampled_from([None, False, 0, 1.5, [], {"a": 1}, True]),
                st.text(max_size=5),
            )
            for name in ("unihash", *COLUMNS)
        },
    )
)
def test_a_plain_report_is_read_as_any_other(fields: dict[str, Any]) -> None:
    """What is read in one go is what reading field by field gives, and nothing is taken that this refuses."""
    for values in (fields, {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H} | fields):
        plain = Fields("report", values).plain_report()
        if plain is not None:
            batched = ask({"report-batch": {"reports": [values]}})
            assert isinstance(batched, m.ReportBatch)
            assert batched.reports == [plain]
            assert all(value is None or type(value) is str for value in plain)
    whole = dict.fromkeys(("owner", "PN", "PV", "PR", "task", "outhash_siginfo"), "x")
    assert Fields("report", {"method": "m", "taskhash": "t", "outhash": "o", "unihash": H} | whole).plain_report()
