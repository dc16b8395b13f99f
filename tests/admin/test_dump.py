"""Dumps: everything goes out and comes back, into any number of shards; what is cut off or changed is refused."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest

from shardhash.admin.directory import new_directory
from shardhash.admin.dump import dump, load, read_lines
from shardhash.admin.verify import verify
from shardhash.errors import ConfigError
from shardhash.shard.directory.manifest import make_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.recovery import recover
from tests.admin.directories import METHOD, USER, Writer, facts, hash_of, siginfo_of, silent

FS = OsFileSystem()


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """The lines of a dump of `tmp_path / data`."""
    make_directory(FS, tmp_path / "data")
    writer = Writer(FS, tmp_path / "data")
    writer.fill(range(1, 31))
    writer.snapshot()
    writer.report(31)
    writer.close()
    out = io.BytesIO()
    counts = dump(FS, writer.folders, out.write, silent)
    assert counts == {"entries": 2, "mappings": 30, "rows": 31}
    return out.getvalue().splitlines(keepends=True)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_what_is_dumped_comes_back(tmp_path: Path, lines: list[bytes], shards: int) -> None:
    with new_directory(FS, tmp_path / "new", shards) as folders:
        assert load(FS, lines, folders, silent, users=True) == (
            {"entries": 2, "mappings": 30, "rows": 31},
            {"joe": ["@read"]},
        )
    assert facts(FS, tmp_path / "new") == facts(FS, tmp_path / "data")
    verdict = verify(FS, folders, silent)
    assert (verdict.damage, verdict.remarks) == ([], [])


def test_people_and_scripts_can_read_it(lines: list[bytes]) -> None:
    head, *values = [orjson.loads(line) for line in lines]
    assert head == {"format": "shardhash dump", "version": 1}
    row = next(value for value in values if value["type"] == "row" and value["taskhash"] == hash_of("task", 3))
    assert row["method"] == METHOD
    assert row["created"] == "1970-01-01T00:00:00.000003+00:00"
    assert row["outhash_siginfo"] == siginfo_of(3)
    assert values[-1] == {"type": "end", "entries": 2, "mappings": 30, "rows": 31}


def changed(line: bytes, **fields: object) -> bytes:
    return orjson.dumps(orjson.loads(line) | fields)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [], "cut off"),
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[1:], "line 1 of the dump: this is not a dump"),
        (lambda lines: [changed(lines[0], version=2), *lines[1:]], "line 1 of the dump: version 2 is not known"),
        (lambda lines: [*lines[:5], *lines[6:]], "but .* are in it"),
        (lambda lines: [*lines, lines[1]], "something follows the end"),
        (lambda lines: [*lines[:3], lines[3][:20], *lines[4:]], "line 4 of the dump: unexpected end of data"),
        (lambda lines: [*lines[:3], changed(lines[3], type="thing"), *lines[4:]], "line 4 .*'thing' is missing or not"),
        (lambda lines: [*lines[:4], changed(lines[4], unihash="x"), *lines[5:]], "line 5 .*Invalid unihash"),
        (lambda lines: [*lines[:4], changed(lines[4], taskhash=5), *lines[5:]], "line 5 .*'taskhash' must be text"),
        (lambda lines: [lines[0], b"[]", *lines[2:]], "line 2 of the dump"),
        (lambda lines: [lines[0], b"[" * 100_000, *lines[2:]], "line 2 of the dump"),
        (lambda lines: [lines[0], changed(lines[1], kind="door"), *lines[2:]], "'door' are not known"),
        (
            lambda lines: [lines[0], changed(lines[1], value=USER | {"permissions": ["x"]}), *lines[2:]],
            "permissions",
        ),
        (lambda lines: [lines[0], changed(lines[1], value=USER | {"salt": "x"}), *lines[2:]], "line 2 of the dump"),
        (lambda lines: [lines[0], changed(lines[1], value={"permissions": []}), *lines[2:]], "'id' is missing"),
        (lambda lines: [lines[0], changed(lines[1], value=[]), *lines[2:]], "a user must be an object"),
        (lambda lines: [lines[0], changed(lines[1], kind="config", value=5), *lines[2:]], "must be text"),
        (
            lambda lines: [lines[0], changed(lines[1], kind="config", name="administrator", value=1), *lines[2:]],
            "object",
        ),
        (lambda lines: [*lines[:-2], changed(lines[-2], created="noon"), lines[-1]], "Invalid isoformat"),
        (lambda lines: [*lines[:-2], changed(lines[-2], created="1969-12-31"), lines[-1]], "not a time from 1970"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, lines: list[bytes], change: object, text: str) -> None:
    assert callable(change)
    with pytest.raises(ConfigError, match=text), new_directory(FS, tmp_path / "new", 2) as folders:
        load(FS, change(lines), folders, silent)
    assert not (tmp_path / "new" / "manifest.json").exists()
    with new_directory(FS, tmp_path / "new", 2) as folders:  # it is run again
        load(FS, lines, folders, silent, users=True)
    assert facts(FS, tmp_path / "new") == facts(FS, tmp_path / "data")


def test_nothing_is_loaded_over_something(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="not empty"), new_directory(FS, tmp_path / "data", 2):
        raise AssertionError
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    with pytest.raises(ConfigError, match="not empty"), new_directory(FS, tmp_path / "home", 2):
        raise AssertionError


def test_users_are_left_out_unless_they_are_asked_for(tmp_path: Path, lines: list[bytes]) -> None:
    administrator = {"type": "entry", "kind": "config", "name": "administrator", "value": USER | {"username": "eve"}}
    end = changed(lines[-1], entries=3)
    given = [*lines[:-1], orjson.dumps(administrator), end]
    for users in (False, True):
        new = tmp_path / f"new-{users}"
        with new_directory(FS, new, 2) as folders:
            found = load(FS, given, folders, silent, users=users)
        assert found.users == {"joe": ["@read"]}
        entries = recover(FS, folders[0]).table.entries
        assert list(entries.get("user", {})) == (["joe"] if users else [])
        assert set(entries["config"]) == ({"gc-mark", "administrator"} if users else {"gc-mark"})


def test_a_line_without_end_is_refused(tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardhash.admin.dump.LONGEST_LINE", 2000)
    text = io.BytesIO(lines[0] + b"x" * 10_000)
    with pytest.raises(ConfigError, match="line 2 of the dump: it has more than 2,000 bytes"):  # noqa: SIM117
        with new_directory(FS, tmp_path / "new", 1) as folders:
            load(FS, read_lines(text), folders, silent)


QUARANTINE = {
    "name": "q", "where": {"PN": "zlib"}, "reason": "poisoned", "user": None, "time": "2026-11-28T00:00:00+00:00",
    "rows": 1, "mappings": 1, "outhashes": 1, "shared": 0, "parts": 1, "done": True,
}  # fmt: skip
PART = {"mappings": [["m", "t", "ab" * 32]], "outhashes": [["m", "o"]]}


def with_entries(lines: list[bytes], *entries: tuple[str, str, object]) -> list[bytes]:
    added = [
        orjson.dumps({"type": "entry", "kind": kind, "name": name, "value": value}) + b"\n"
        for kind, name, value in entries
    ]
    return [*lines[:-1], *added, changed(lines[-1], entries=2 + len(added))]


def test_quarantines_and_the_use_of_tokens_come_along(tmp_path: Path, lines: list[bytes]) -> None:
    entries = ("quarantine", "q", QUARANTINE), ("quarantine-part", "q.0", PART), ("use", "joe", {"salt": "", "used": 1})
    for users in (True, False):
        with new_directory(FS, tmp_path / str(users), 2) as folders:
            load(FS, with_entries(lines, *entries), folders, silent, users=users)
        kept = recover(FS, folders[0], silent).table.entries
        assert kept["quarantine"] == {"q": QUARANTINE}
        assert kept["quarantine-part"] == {"q.0": PART}
        assert kept.get("use", {}) == ({"joe": {"salt": "", "used": 1}} if users else {})


@pytest.mark.parametrize(
    "entry",
    [
        ("user", "joe", USER | {"expires": "tomorrow"}),
        ("use", "joe", {"salt": "", "used": None}),
        ("quarantine", "q", QUARANTINE | {"parts": "1"}),
        ("quarantine-part", "q.0", PART | {"mappings": [["m", "t"]]}),
        ("quarantine-part", "q.0", PART | {"outhashes": [["m", 1]]}),
        ("other", "q", {}),
    ],
)
def test_entries_that_no_server_could_use_are_refused(
    tmp_path: Path, lines: list[bytes], entry: tuple[str, str, object]
) -> None:
    with (
        pytest.raises(ConfigError, match=f"line {len(lines)} of the dump"),
        new_directory(FS, tmp_path / "new", 2) as folders,
    ):
        load(FS, with_entries(lines, entry), folders, silent, users=True)
