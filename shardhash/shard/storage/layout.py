"""All file names in a data directory.

::

    DIR/                                     mode 0700
      manifest.json                          format version, shard count, generation (manifest.py)
      lock                                   held by the running server, names it (directory/lock.py)
      control                                unix socket of the running server (server/control.py)
      quotas.json                            what users stored today (server/room_watch.py); may be missing
      imported.json                          databases of the stock server (directory/imported.py); may be missing
      outbox/                                reports that wait to be sent on (outbox/files.py, stores/forwarding)
        refused/, conflicts/                 those that the upstream refused, or answered otherwise
      starting, edge.sock, edge.log*         of `shardhash edge` (edge/): its lock, its address, its log
      unfinished                             while a restore or load into the directory goes on
      generation-000001/                     the generation that the manifest names; another one is a leftover,
                                             which goes once all shards of that one have recovered (generations.py)
        shard-000/                           one folder a shard
          log-0000000001.log                 segments of the report log, ascending without gaps (log.py); a shard
                                             that started from a snapshot begins with snapshot 2 and segment 2
          snapshot-0000000007.snap           the state before segment 7 (snapshot.py)
          siginfo-0000000001.sig             outhash_siginfo texts (siginfo.py)
          *.tmp                              unfinished, removed at the next start
          *.damaged                          a snapshot that did not verify, set aside
      aside-YYYYMMDD-HHMMSS/                 what was there before `shardhash repair` changed anything

A backup has the same folders, and ``backup.json`` (admin/backup.py) in the place of the manifest.

Numbers ascend from 1 and are never used twice within a folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from shardhash.shard.storage.filesystem import FileSystem

MANIFEST = "manifest.json"
BACKUP = "backup.json"
LOCK = "lock"
CONTROL = "control"
UNFINISHED = "unfinished"
QUOTAS = "quotas.json"
IMPORTED = "imported.json"
OUTBOX = "outbox"
POSITION = "position.json"
STARTING = "starting"
EDGE_SOCKET = "edge.sock"
EDGE_LOG = "edge.log"
ASIDE = "aside-"
TEMPORARY = ".tmp"
DAMAGED = ".damaged"

SHARD = re.compile(r"shard-\d{3}", re.ASCII)
"""The name of a shard's folder."""
_NUMBERED = re.compile(r"(log|snapshot|siginfo)-(\d{10})\.(log|snap|sig)", re.ASCII)
_ENDINGS = {"log": "log", "snapshot": "snap", "siginfo": "sig"}


class Listing(NamedTuple):
    """What a shard's folder holds: numbers ascending, and names of leftovers."""

    segments: list[int]
    snapshots: list[int]
    siginfos: list[int]
    temporaries: list[str]


def is_shard_file(name: str) -> bool:
    """Whether a name is one of a file that counts in a shard's folder."""
    match = _NUMBERED.fullmatch(name)
    return match is not None and _ENDINGS[match[1]] == match[3]


def segment_name(number: int) -> str:
    """The name of a log segment."""
    return f"log-{number:010}.log"


def snapshot_name(number: int) -> str:
    """The name of the snapshot that covers all segments before `number`."""
    return f"snapshot-{number:010}.snap"


def siginfo_name(number: int) -> str:
    """The name of a siginfo file."""
    return f"siginfo-{number:010}.sig"


def generation_folder(directory: Path, generation: int) -> Path:
    """The folder of a generation in a data directory."""
    return directory / f"generation-{generation:06}"


def shard_folder(directory: Path, generation: int, shard: int) -> Path:
    """The folder of a shard in a data directory."""
    return generation_folder(directory, generation) / f"shard-{shard:03}"


def outbox_folders(directory: Path) -> list[Path]:
    """The folders of the outbox: what waits, what was refused, what was answered otherwise."""
    outbox = directory / OUTBOX
    return [outbox, outbox / "refused", outbox / "conflicts"]


def list_shard(fs: FileSystem, folder: Path) -> Listing:
    """What a shard's folder holds; names of other kinds are left out."""
    found: dict[str, list[int]] = {"log": [], "snapshot": [], "siginfo": []}
    temporaries = []
    for name in fs.listdir(folder):
        match = _NUMBERED.fullmatch(name)
        if match and _ENDINGS[match[1]] == match[3]:
            found[match[1]].append(int(match[2]))
        elif name.endswith(TEMPORARY):
            temporaries.append(name)
    return Listing(sorted(found["log"]), sorted(found["snapshot"]), sorted(found["siginfo"]), temporaries)


def segment_path(folder: Path, number: int) -> Path:
    """A log segment of a shard."""
    return folder / segment_name(number)


def snapshot_path(folder: Path, number: int) -> Path:
    """The snapshot of a shard that covers all segments before `number`."""
    return folder / snapshot_name(number)


def siginfo_path(folder: Path, number: int) -> Path:
    """A siginfo file of a shard."""
    return folder / siginfo_name(number)
