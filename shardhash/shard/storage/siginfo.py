"""Siginfo: the outhash_siginfo texts, which can be hundreds of KiB each and are never held in memory.

They lie compressed in append-only files of their own, so that log and snapshots stay small. A file is begun with
the first text after a start, since most builds report none. Integers are little-endian::

    header   8 bytes "SHSIG\\0\\0" and version 1
    text     u32 bytes of the compressed text | u32 CRC-32 of those 4 bytes | u32 CRC-32 of the compressed text
             | zlib-compressed UTF-8

A *reference* is ``file number << 40 | offset of the text``, never 0. A text is durable before the log record that
refers to it is written. A file goes once no row, no kept snapshot and no kept segment can refer to it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from shardhash.errors import DamageError, StorageError, SyncError, TextError
from shardhash.shard.storage.filesystem import FileSystem, WritableFile, takes_no_writes
from shardhash.shard.storage.layout import list_shard, siginfo_path
from shardhash.wire.long_text import PART, LongText, Text, cut_parts

MAGIC = b"SHSIG\0\0\1"
FILE_SIZE = 16 << 20
"""Bytes after which the next file is begun; small, because space comes back a file at a time."""
MOST_TEXT = 1 << 30
"""Bytes of a text that are unpacked; no message of a client is as long."""
LEVEL = 3
"""zlib's; a text of 100 KiB takes 1 ms."""

_HEAD = struct.Struct("<III")
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class SiginfoFiles:
    """The siginfo files of one shard: the newest of this process is written, all are read."""

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._folder = folder
        self.next_number = max(list_shard(fs, folder).siginfos, default=0) + 1
        """Number of the file that is begun next; all files of kept state are below it."""
        self._file: WritableFile | None = None
        self._end = 0
        self._full: list[WritableFile] = []
        self._named = True
        self.dirty = False
        """Whether a text waits for `sync`."""
        self.refusal: StorageError | None = None
        """What `put` raises in place of storing a text."""

    def put(self, text: Text) -> int:
        """Append a text; its reference, good for a record after `sync`. Raises StorageError; nothing is then stored."""
        return self.put_packed([pack_siginfo(text)])[0]

    def put_packed(self, packed: Sequence[bytes]) -> list[int]:
        """Append texts that `pack_siginfo` made ready, in one write; their references. Raises StorageError."""
        if self.refusal is not None:
            raise self.refusal
        try:
            if self._file is None or self._end >= FILE_SIZE:
                self._begin()
            assert self._file is not None
            self._file.write(b"".join(packed), self._end)
        except OSError as error:
            # What was written behind the end is written over by the next text.
            raise StorageError(f"a siginfo file cannot be written: {error.strerror or error}") from error
        references = []
        for one in packed:
            references.append((self.next_number - 1) << _OFFSET_BITS | self._end)
            self._end += len(one)
        self.dirty = True
        return references

    def sync(self) -> None:
        """Make all texts durable; may run beside the event loop, but not beside `put`.

        TextError when there is no room for them: those put since the last sync are lost, and no record may refer to
        them. SyncError is final.
        """
        if not self.dirty:
            return
        try:
            for file in self._open_files():
                file.fsync()
            if not self._named:
                self._fs.fsync_dir(self._folder)
        except OSError as error:
            if not takes_no_writes(error):
                raise SyncError(f"a siginfo file cannot be synced: {error.strerror or error}") from error
            self._close_files()  # what is in the file is unknown from here on; the next text begins another
            raise TextError(f"a siginfo file cannot be synced: {error.strerror or error}") from error
        for file in self._full:
            file.close()
        self._full, self._named, self.dirty = [], True, False

    def get(self, reference: int, most: int = MOST_TEXT) -> str | None:
        """The text of a reference, None for 0 and for one of more than `most` bytes. Raises DamageError."""
        text = unpack_siginfo(packed, most) if (packed := self.get_packed(reference)) is not None else None
        if text is None and reference and most == MOST_TEXT:
            raise self.damaged(reference)
        return text

    def get_packed(self, reference: int) -> bytes | None:
        """A text as it is packed, for `unpack_siginfo`; None for 0. Raises DamageError."""
        with closing(SiginfoReader(self._fs, self._folder)) as reader:
            return reader.read_packed(reference)

    def damaged(self, reference: int) -> DamageError:
        """The error for a text that cannot be unpacked."""
        return _damaged(self._folder, reference)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._close_files()

    def _begin(self) -> None:
        """Begin the next file. `sync` makes it and its name durable."""
        file = self._fs.create(siginfo_path(self._folder, self.next_number))
        try:
            file.write(MAGIC, 0)
        except OSError:
            file.close()
            raise
        if self._file is not None:
            self._full.append(self._file)
        self._file, self._end, self._named = file, len(MAGIC), False
        self.next_number += 1

    def _open_files(self) -> list[WritableFile]:
        return [*self._full, *([] if self._file is None else [self._file])]

    def _close_files(self) -> None:
        for file in self._open_files():
            file.close()
        self._file, self._full, self._named, self.dirty = None, [], True, False


def pack_siginfo(text: Text) -> bytes:
    """A text as it stands in a file."""
    packed = compress(text, LEVEL)
    size = struct.pack("<I", len(packed))
    return _HEAD.pack(len(packed), crc32(size), crc32(packed)) + packed


def compress(text: Text, level: int) -> bytes:
    """The zlib-compressed UTF-8 of a text; of a long one a part at a time, between which other threads run."""
    if not isinstance(text, LongText):
        return zlib.compress(text.encode("utf-8", "surrogatepass"), level)
    packer = zlib.compressobj(level)
    return b"".join([*map(packer.compress, text.parts), packer.flush()])


def unpack_siginfo(packed: bytes, most: int) -> str | None:
    """The text of what `compress` made; None for none, and for one of more than `most` bytes."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, most)
        return text.decode("utf-8", "surrogatepass") if unpacker.eof else None
    except (zlib.error, UnicodeDecodeError):
        return None


def unpack_long_siginfo(packed: bytes) -> LongText | None:
    """The same of a long text, a part at a time, between which other threads run.

    Half a surrogate pair becomes a question mark.
    """
    unpacker = zlib.decompressobj()
    parts: list[bytes] = []
    rest = b""
    size = 0
    try:
        while not unpacker.eof:
            data = unpacker.decompress(packed, PART)
            packed = unpacker.unconsumed_tail
            size += len(data)
            if (not data and not packed and not unpacker.eof) or size > MOST_TEXT:
                return None
            some, rest = cut_parts(rest + data, more=not unpacker.eof)
            parts += some
        return LongText([part.decode("utf-8", "surrogatepass").encode("utf-8", "replace") for part in parts])
    except (zlib.error, UnicodeDecodeError):
        return None


def file_of(reference: int) -> int:
    """The number of the file that a reference points into."""
    return reference >> _OFFSET_BITS


def check_siginfos(fs: FileSystem, folder: Path, references: Iterable[int]) -> None:
    """Check the checksums of many texts, each file read once. Raises DamageError for one that is not there whole."""
    for number, some in groupby(sorted(references), file_of):
        path = siginfo_path(folder, number)
        if not fs.exists(path):
            raise DamageError(path, 0, "the file of an outhash_siginfo is missing", _HINT)
        with fs.read(path) as file:
            data = file.read()
        for reference in some:
            offset = reference & _OFFSET_MASK
            head = data[offset : offset + _HEAD.size]
            if len(head) == _HEAD.size:
                size, head_checksum, checksum = _HEAD.unpack(head)
                packed = data[offset + _HEAD.size : offset + _HEAD.size + size]
                if crc32(head[:4]) == head_checksum and len(packed) == size and crc32(packed) == checksum:
                    continue
            raise DamageError(path, offset, "an outhash_siginfo is damaged", _HINT)


def read_siginfo(fs: FileSystem, folder: Path, reference: int) -> str | None:
    """The text of a reference, None for 0. Raises DamageError when it is not there whole."""
    with closing(SiginfoReader(fs, folder)) as reader:
        return reader.read(reference)


class SiginfoReader:
    """Reads many texts of a shard: the file of the last one stays open."""

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._folder = folder
        self._number = 0
        self._file: BinaryIO | None = None

    def read(self, reference: int) -> str | None:
        """The text of a reference, None for 0. Raises DamageError when it is not there whole."""
        packed = self.read_packed(reference)
        text = None if packed is None else unpack_siginfo(packed, MOST_TEXT)
        if text is None and reference:
            raise _damaged(self._folder, reference)
        return text

    def read_packed(self, reference: int) -> bytes | None:
        """The same as it is packed."""
        if not reference:
            return None
        offset = reference & _OFFSET_MASK
        if self._file is None or self._number != file_of(reference):
            self.close()
            path = siginfo_path(self._folder, file_of(reference))
            if not self._fs.exists(path):
                raise DamageError(path, offset, "the file of an outhash_siginfo is missing", _HINT)
            self._file, self._number = self._fs.read(path), file_of(reference)
        packed = _read_packed(self._file, offset)
        if packed is None:
            raise _damaged(self._folder, reference)
        return packed

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _damaged(folder: Path, reference: int) -> DamageError:
    path = siginfo_path(folder, file_of(reference))
    return DamageError(path, reference & _OFFSET_MASK, "an outhash_siginfo is damaged", _HINT)


def _read_packed(file: BinaryIO, offset: int) -> bytes | None:
    """The packed text at an offset of a file; None when it is not there whole."""
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        return None
    size, head_checksum, checksum = _HEAD.unpack(head)
    if crc32(head[:4]) != head_checksum:
        return None
    packed = file.read(size)
    return packed if len(packed) == size and crc32(packed) == checksum else None


_HINT = "see: shardhash verify --data DIR"
