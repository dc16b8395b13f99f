"""The subcommands that look after a data directory.

Answers go to standard output, everything else to standard error. Exit status 0: done; 1: not done, or damage; 2: called
wrongly. Modules that take long to import are imported when they are needed.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from shardhash.base import options
from shardhash.base.command_line import run_command
from shardhash.base.cores import default_workers
from shardhash.base.options import Options
from shardhash.base.parser import Parser
from shardhash.base.text import printable
from shardhash.errors import ConfigError, DamageError

PATIENCE = 2.0
"""Seconds that a command may work before it tells how far it is."""
PAUSE = 0.5
"""Seconds between one such text and the next."""
AT_ITS_TIME = "as of this time, ISO 8601: 2026-11-23T18:00 (UTC) or 2026-11-23T18:00+01:00; default: the newest state"


def snapshot(arguments: Sequence[str]) -> int:
    """``shardhash snapshot``."""
    known = _command(
        "snapshot",
        "Have a running server write a snapshot of every shard now, so that its next start is quick. The server finds"
        " it no trouble: lookups and reports go on. It is asked over the socket DIR/control, and says at once if it"
        " cannot. (kill -USR1 does the same without an answer.)",
    )
    known.add(
        "--timeout",
        "SHARDHASH_SNAPSHOT_TIMEOUT",
        metavar="TIME",
        convert=options.seconds,
        default=600.0,
        help="how long to wait for it (default 10m)",
    )
    given = known.parse(arguments)
    from shardhash.admin.snapshot import take_snapshot
    from shardhash.shard.storage.filesystem import OsFileSystem

    def run() -> int:
        numbers = take_snapshot(OsFileSystem(), given.data, given.timeout, say)
        print(f"{len(numbers)} snapshots are written")
        return 0

    return run_command("snapshot", run)


def verify(arguments: Sequence[str]) -> int:
    """``shardhash verify``."""
    known = _command(
        "verify",
        "Read every file of a data directory or a backup, and check each checksum and what must hold between them."
        " Changes nothing. Beside a running server each shard is checked alone, not against the others. The outbox of a"
        " server that sends reports on (--forward) is read, too. Prints what is"
        " there; exit status 1 and the file and offset of each damage if there is any.",
    )
    given = known.parse(arguments)
    return run_command("verify", lambda: _verify(given.data))


def repair(arguments: Sequence[str]) -> int:
    """``shardhash repair``."""
    known = _command(
        "repair",
        "Make a damaged data directory whole again with everything in it that is sound. The server must be stopped."
        " Nothing is destroyed: all files are copied to a folder aside-TIME in the directory first, which needs as much"
        " space again, and stay there until you remove it. Without --yes it only says what is damaged. If there is a"
        " backup, restoring it (shardhash restore) may lose less. Of a damaged outbox, the reports that are sound go on"
        " waiting to be sent.",
    )
    known.switch("--yes", help="do it")
    given = known.parse(arguments)
    from shardhash.admin.repair import repair as repair_directory
    from shardhash.shard.directory.lock import lock_directory
    from shardhash.shard.storage.filesystem import OsFileSystem

    def run() -> int:
        with lock_directory(given.data):
            done = repair_directory(OsFileSystem(), given.data, _stamp() if given.yes else None, telling())
        for text in done.damage:
            print(f"damaged: {text}")
        for text in done.lost:
            print(f"lost: {text}")
        if not done.damage:
            print("no damage; nothing was changed")
        elif done.aside is None:
            print(f"nothing was changed; to repair: shardhash repair --data {given.data} --yes")
            return 1
        else:
            print(f"repaired; everything that was there is kept in {done.aside}")
        return 0

    return run_command("repair", run)


def backup(arguments: Sequence[str]) -> int:
    """``shardhash backup``."""
    known = _command(
        "backup",
        "Copy a data directory, of a running or a stopped server, to a folder; the copy stands for the moment at which"
        " it was begun, on all shards. Run again with the same folder, it copies only what is new, and one that is cut"
        " short leaves the last as it was. Give each day of the week a folder to be able to go back a week."
        " Reports that wait to be sent on to an upstream (--forward) are in it.",
    )
    known.parser.add_argument("destination", metavar="DEST", type=Path, help="folder of the backup; made if need be")
    given = known.parse(arguments)
    from shardhash.admin.backup import backup as make_backup
    from shardhash.admin.timespan import text_of
    from shardhash.shard.storage.filesystem import OsFileSystem

    def run() -> int:
        result = make_backup(OsFileSystem(), given.data, given.destination, telling())
        print(
            f"{given.destination} is a backup as of {text_of(result.time)}: {result.copied} files copied"
            f" ({result.size:,} bytes), {result.kept} were there"
        )
        return 0

    return run_command("backup", run)


def restore(arguments: Sequence[str]) -> int:
    """``shardhash restore``."""
    known = _command(
        "restore",
        "Make a data directory of a backup, or of a data directory whose server is stopped (also of itself, to go back"
        " in time), and verify it. The server of DIR must be stopped. A directory that holds something is left alone"
        " unless --force is given; what it held then stays in a folder aside-TIME in it. Reports that wait in SRC to be"
        " sent on to an upstream (--forward) wait in DIR then, with --until those from before that time. What was sent"
        " since is sent again, which changes nothing there, unless it was removed there: then it comes back.",
        existing=False,
    )
    known.parser.add_argument("source", metavar="SRC", type=Path, help="backup or data directory to restore")
    known.add("--until", metavar="TIME", convert=options.timestamp, help=AT_ITS_TIME)
    known.switch("--force", help="also over a directory that holds something, which stays aside")
    known.switch("--dry-run", help="change nothing, and say what would go and come")
    given = known.parse(arguments)
    from shardhash.admin.outbox import count_waiting
    from shardhash.admin.restore import restore as restore_new
    from shardhash.admin.restore import restore_over
    from shardhash.admin.timespan import text_of
    from shardhash.shard.storage.filesystem import OsFileSystem
    from shardhash.shard.storage.layout import MANIFEST

    def run() -> int:
        fs, aside = OsFileSystem(), None
        if given.dry_run:
            return _tell_difference(given.source, given.data, given.until)
        if given.force and (given.data / MANIFEST).exists():
            moment, aside = restore_over(fs, given.source, given.data, given.until, _stamp(), telling(), say)
        else:
            moment = restore_new(fs, given.source, given.data, given.until, telling(), say)
        state = "in its newest state" if moment is None else f"as of {text_of(moment)}"
        print(f"{given.data} is {given.source} {state}, and verified")
        if aside is not None:
            print(f"what it held before is kept in {aside}")
        if waiting := count_waiting(fs, given.data):
            print(f"{waiting:,} reports wait there that no upstream took; serve --forward sends them")
        if aside is not None and (waiting := count_waiting(fs, aside)):
            print(
                f"{waiting:,} such reports waited before, and are in {aside}; to send them as well, serve that folder"
                " with --forward for a while"
            )
        return 0

    return run_command("restore", run)


def _tell_difference(source: Path, data: Path, until: int | None) -> int:
    from shardhash.admin.backup import source_of
    from shardhash.admin.difference import would_change
    from shardhash.admin.outbox import count_waiting
    from shardhash.admin.timespan import text_of
    from shardhash.shard.storage.filesystem import OsFileSystem

    fs = OsFileSystem()
    found = would_change(fs, source, data, until, telling())
    state = "in its newest state" if found.moment is None else f"as of {text_of(found.moment)}"
    print(f"nothing was changed; {data} would be {source} {state}:")
    for verb, counts, users in (("go", found.gone, found.users_gone), ("come", found.come, found.users_come)):
        names = f"; users: {', '.join(map(printable, users))}" if users else ""
        print(f"would {verb}: {', '.join(f'{count:,} {kind}' for kind, count in counts.items())}{names}")
    waiting, instead = count_waiting(fs, data), count_waiting(source_of(fs, source).fs, source, until)
    if waiting or instead:
        print(f"would wait to be sent on to an upstream: {instead:,} reports, instead of {waiting:,}")
    return 0


def dump(arguments: Sequence[str]) -> int:
    """``shardhash dump``."""
    known = _command(
        "dump",
        "Write everything that a data directory or a backup holds as JSON Lines: mappings, outhash rows, users (with"
        " their salted token hashes), settings. The server must be stopped; of a running one, dump a backup.",
    )
    known.parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="where to; default: standard output")
    given = known.parse(arguments)
    from shardhash.admin.backup import source_of
    from shardhash.admin.dump import dump as write_dump
    from shardhash.admin.restore import kept_still
    from shardhash.shard.storage.filesystem import OsFileSystem

    def run() -> int:
        fs = OsFileSystem()
        source = source_of(fs, given.data)
        with kept_still(given.data), _output(given.file) as out:
            counts = write_dump(source.fs, source.manifest.folders(given.data), out.write, telling(), until=source.time)
        say(f"dumped {_counted(counts)}")
        return 0

    return run_command("dump", run)


def load(arguments: Sequence[str]) -> int:
    """``shardhash load``."""
    known = _command(
        "load",
        "Read a dump into a data directory, a new one or that of a stopped server. What is there already stays, so"
        " loading twice changes nothing. It happens at once or not at all. Users, who may have rights here then, are"
        " left out unless --users is given.",
        existing=False,
    )
    known.parser.add_argument("file", metavar="FILE", type=Path, help="the dump; - for standard input")
    known.switch("--users", help="take along the users, their tokens and rights, too")
    known.add(
        "--workers",
        "SHARDHASH_WORKERS",
        metavar="N",
        convert=options.whole(1, 256),
        help="for how many workers (default, as for shardhash serve: what DIR has; for a new one the cores but those"
        f" of the coordinators, here {default_workers()})",
    )
    given = known.parse(arguments)
    from shardhash.admin.directory import manifest_of, new_directory, replacement
    from shardhash.admin.dump import load as read_dump
    from shardhash.admin.dump import read_lines
    from shardhash.shard.directory.lock import lock_directory
    from shardhash.shard.storage.filesystem import OsFileSystem
    from shardhash.shard.storage.layout import MANIFEST

    def run() -> int:
        fs = OsFileSystem()
        _refuse_database(given.file, given.data)
        with sys.stdin.buffer if str(given.file) == "-" else open(given.file, "rb") as lines:  # noqa: PTH123  # both alike
            if not (given.data / MANIFEST).exists():
                with new_directory(fs, given.data, given.workers or default_workers()) as folders:
                    found = read_dump(fs, read_lines(lines), folders, telling(), users=given.users)
            else:
                with lock_directory(given.data):
                    old = manifest_of(fs, given.data)
                    with replacement(fs, given.data, given.workers or old.shards) as folders:
                        present = old.folders(given.data)
                        found = read_dump(fs, read_lines(lines), folders, telling(), present, users=given.users)
        print(f"loaded {_counted(found.counts)} into {given.data}")
        if found.users:
            names = ", ".join(
                f"{printable(name)} ({' '.join(rights) or '@none'})" for name, rights in sorted(found.users.items())
            )
            taken = "taken along" if given.users else "left out (--users takes them along)"
            print(f"of these {len(found.users):,} users were {taken}: {names}")
        return 0

    return run_command("load", run)


def _refuse_database(file: Path, data: Path) -> None:
    """ConfigError for a database of BitBake's own server, which another command reads."""
    if file.is_file():
        with file.open("rb") as content:
            if content.read(16) == b"SQLite format 3\0":
                command = shlex.join(["shardhash", "import", str(file), "--data", str(data)])
                raise ConfigError(f"{file} is an SQLite database and no dump; if it is the old server's: {command}")


def say(text: str) -> None:
    """Print progress, on standard error."""
    print(text, file=sys.stderr)


def telling() -> Callable[[str], None]:
    """Progress of work that may end at once: silent for a while, then a text now and then."""
    next_text = time.monotonic() + PATIENCE

    def tell(text: str) -> None:
        nonlocal next_text
        if time.monotonic() >= next_text:
            next_text = time.monotonic() + PAUSE
            say(text)

    return tell


def _verify(data: Path) -> int:
    from shardhash.admin.backup import source_of
    from shardhash.admin.outbox import describe_outbox, verify_outbox
    from shardhash.admin.verify import describe, verify_live
    from shardhash.admin.verify import verify as verify_stopped
    from shardhash.shard.directory.lock import lock_directory
    from shardhash.shard.storage.filesystem import OsFileSystem

    fs = OsFileSystem()
    try:
        source = source_of(fs, data)
    except DamageError as error:
        print(f"damaged: {error}")
        return 1
    folders = source.manifest.folders(data)
    if _is_served(data):
        verdict = verify_live(fs, folders, telling())
    else:
        with lock_directory(data) if os.access(data, os.W_OK) else nullcontext():
            verdict = verify_stopped(source.fs, folders, telling(), source.time)
    verify_outbox(source.fs, data, verdict, telling())
    for text in verdict.remarks:
        say(f"note: {text}")
    for text in verdict.damage:
        print(f"damaged: {text}")
    print(describe(verdict, source.manifest) + describe_outbox(verdict.counts))
    return 1 if verdict.damage else 0


def _is_served(data: Path) -> bool:
    from shardhash.shard.directory.lock import is_locked

    return is_locked(data)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its name when all is in it. Readable by its owner only."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _counted(counts: Mapping[str, int]) -> str:
    return f"{counts['mappings']:,} mappings, {counts['rows']:,} outhash rows, {counts['entries']:,} users and settings"


def _stamp() -> str:
    """The present time in the name of a folder."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def _command(name: str, description: str, *, existing: bool = True) -> Options:
    """The options of a subcommand, with the data directory that all of them need."""
    known = Options(Parser(f"shardhash {name}", description=description, allow_abbrev=False))
    known.add(
        "--data",
        "SHARDHASH_DATA",
        metavar="DIR",
        convert=_existing if existing else Path,
        default=options.served_data,
        help=f"the server's data directory (default {options.DEFAULT_DATA}, as for shardhash serve)",
    )
    return known


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")
    return path
