"""The names of an sstate cache: which unihashes it still holds.

An object of the cache is named by what it is made of, its unihash and its task, as in::

    sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:UNIHASH_package.tar.zst

Releases before 2022 end such names in .tgz, and the oldest have hyphens in the place of the colons. Beside it lie its
.siginfo, .sig and .done, which hold no output: they keep nothing. A listing is any text with the names in it, as
`find`, `ls -lR`, `aws s3 ls --recursive` or a page of links write one; ``%3A`` is a colon.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

_ARCHIVE = re.compile(
    r"(?:^|[:/\-\s])([0-9a-f]{64})_[A-Za-z][A-Za-z0-9_]*\.(?:tar\.(?:zst|gz|xz|bz2|lz4)|tgz|tar)(?![\w.\-])"
)
"""A name's end; nothing follows it but what ends a name in a listing."""


def unihashes_of(line: str) -> list[str]:
    """The unihashes of the cache's objects that a line of a listing names."""
    return _ARCHIVE.findall(unquote(line) if "%" in line else line)


def names_below(folder: str) -> Iterator[str]:
    """The names of all files below a folder; links are followed, broken ones left out. OSError if some cannot be read.

    What cannot be read may hold anything: so it is no use to go on without it.
    """
    waiting, seen = [folder], set()
    while waiting:
        path = waiting.pop()
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif not entry.is_symlink() or entry.is_file():
                    yield entry.name


def unihashes_in(lines: Iterable[str]) -> Iterator[str]:
    """The unihashes that lines of a listing name, some more than once."""
    for line in lines:
        yield from unihashes_of(line)
