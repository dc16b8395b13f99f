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

from shardhash.admin.arguments import command
from shardhash.base import options
from shardhash.base.command_line import run_command
from shardhash.base.cores import default_workers
from shardhash.base.text import counted, printable
from shardhash.errors import ConfigError, DamageError

PATIENCE = 2.0
"""Seconds that a command may work before it tells how far it is."""
PAUSE = 0.5
"""Seconds between one such text and the next."""
AT_ITS_TIME = "as of this time, ISO 8601: 2026-11-23T18:00 (UTC) or 2026-11-23T18:00+01:00; default: the newest state"


def snapshot(arguments: Sequence[str]) -> int:
    """``shardhash snapshot``."""
    known = command(
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
        print(counted(len(numbers), "snapshot is written", "snapshots are written"))
        return 0

    return run_command("snapshot", run)


def verify(arguments: Sequence[str]) -> int:
    """``shardhash verify``."""
    known = command(
        "verify",
        "Read every file of a data directory or a backup, and check each checksum and what must hold between them."
        " Changes nothing. Beside a running server each shard is checked alone, not against the others. The outbox of a"
        " server that sends reports on (--forward) is read, too. Prints what is"
        " there; exit status 1 and the file and offset of each damage if there is any.",
    )
    known.parser.add_argument("folder", metavar="FOLDER", nargs="?", help="the same as --data FOLDER")
    flags = known.flags(arguments)
    if flags.folder is not None and flags.data is not None:
        known.parser.error("FOLDER and --data are both given; name one")
    given = known.parse(arguments if flags.folder is None else ["--data", flags.folder])
    return run_command("verify", lambda: _verify(given.data))


def repair(arguments: Sequence[str]) -> int:
    """``shardhash repair``."""
    known = command(
        "repair",
        "Make a damaged data directory whole again with everything in it that is sound. The server must be stopped."
        " Nothing is destroyed: all files are copied to a folder aside-TIME in the directory first, which needs as much"
        " space again, and stay there until you remove it. Without --yes it only says what is damaged, what it would"
        " lose and save. If there is a backup, restoring it (shardhash restore) may lose less. Of a damaged outbox, the"
        " reports that are sound go on waiting to be sent.",
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
            return 0
        verb = "would save" if done.aside is None else "saved"
        print(f"{verb}: {_hashes(done.saved)}, {counted(done.saved['users'], 'user')}")
        if done.aside is None:
            print(f"nothing was changed; to repair: shardhash repair --data {given.data} --yes")
            return 1
        print(f"repaired; everything that was there is kept in {done.aside}")
        return 0

    return run_command("repair", run)


def backup(arguments: Sequence[str]) -> int:
    """``shardhash backup``."""
    known = command(
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
        before = "" if result.before is None else f", no longer as of {text_of(result.before)}"
        print(
            f"{given.destination} is a backup as of {text_of(result.time)}{before}: {counted(result.copied, 'file')}"
            f" copied ({result.size:,} bytes), {counted(result.kept, 'was', 'were')} there"
        )
        return 0

    return run_command("backup", run)


def restore(arguments: Sequence[str]) -> int:
    """``shardhash restore``."""
    known = command(
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
    from shardhash.admin.difference import preview
    from shardhash.admin.outbox import count_waiting
    from shardhash.admin.restore import restore as restore_new
    from shardhash.admin.restore import restore_over
    from shardhash.admin.timespan import text_of
    from shardhash.shard.storage.filesystem import OsFileSystem
    from shardhash.shard.storage.layout import MANIFEST

    def run() -> int:
        fs, aside = OsFileSystem(), None
        if given.dry_run:
            print("\n".join(preview(fs, given.source, given.data, given.until, telling(), force=given.force)))
            return 0
        if given.force and (given.data / MANIFEST).exists():
            moment, aside = restore_over(fs, given.source, given.data, given.until, _stamp(), telling(), say)
        else:
            moment = restore_new(fs, given.source, given.data, given.until, telling(), say)
        state = "in its newest state" if moment is None else f"as of {text_of(moment)}"
        print(f"{given.data} is {given.source} {state}, and verified")
        if aside is not None:
            print(f"what it held before is kept in {aside}")
        if waiting := count_waiting(fs, given.data):
            what = counted(waiting, "report waits", "reports wait")
            print(f"{what} there that no upstream took; serve --forward sends what waits")
        if aside is not None and (waiting := count_waiting(fs, aside)):
            print(
                f"{counted(waiting, 'such report')} waited before, kept in {aside}; to send that as well, serve that"
                " folder with --forward for a while"
            )
        return 0

    return run_command("restore", run)


def dump(arguments: Sequence[str]) -> int:
    """``shardhash dump``."""
    known = command(
        "dump",
        "Write everything that a data directory or a backup holds as JSON Lines: mappings, outhash rows, users (with"
        " their salted token hashes), settings. The server must be stopped; of a running one, dump a backup.",
    )
    known.parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="where to; default: standard output")
    file = known.flags(arguments).file
    if file is not None and file.is_dir():
        known.parser.error(f"FILE: {file} is a folder; to dump it: shardhash dump --data {file}")
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
        say(f"dumped {_described(counts)}")
        return 0

    return run_command("dump", run, hint=live_hint("dump --data DEST"))


def load(arguments: Sequence[str]) -> int:
    """``shardhash load``."""
    known = command(
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
        print(f"loaded {_described(found.counts)} into {given.data}")
        if found.users:
            names = ", ".join(
                f"{printable(name)} ({' '.join(rights) or '@none'})" for name, rights in sorted(found.users.items())
            )
            taken = "taken along" if given.users else "left out (--users takes them along)"
            print(f"of these {counted(len(found.users), 'user was', 'users were')} {taken}: {names}")
        return 0

    return run_command("load", run)


def _refuse_database(file: Path, data: Path) -> None:
    """ConfigError for a database of BitBake's own server, which another command reads."""
    if file.is_file():
        with file.open("rb") as content:
            if content.read(16) == b"SQLite format 3\0":
                command = shlex.join(["shardhash", "import", str(file), "--data", str(data)])
                raise ConfigError(f"{file} is an SQLite database and no dump; if it is the old server's: {command}")


def live_hint(command: str) -> Callable[[str], str]:
    """What to do while a server uses the data, behind the text of an error; `command` is for its backup, DEST."""
    way = f"; or of the server as it runs: shardhash backup DEST, then shardhash {command}"
    return lambda error: way if "is in use by" in error else ""


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


def _described(counts: Mapping[str, int]) -> str:
    return f"{_hashes(counts)}, {counts['entries']:,} users and settings"


def _hashes(counts: Mapping[str, int]) -> str:
    return f"{counted(counts['mappings'], 'mapping')}, {counted(counts['rows'], 'outhash row')}"


def _stamp() -> str:
    """The present time in the name of a folder."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())
