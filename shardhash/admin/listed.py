"""A file system that shows of a backup what belongs to it, and not what one that was cut short left there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shardhash.shard.storage.filesystem import FileSystem
from shardhash.shard.storage.layout import outbox_folders


class Listed:
    """A file system in which a backup's folders show nothing but its files."""

    def __init__(self, fs: FileSystem, directory: Path, files: Iterable[str]) -> None:
        self._fs = fs
        self._shown = {directory / name for name in files}
        self._folders = {path.parent for path in self._shown}.union(outbox_folders(directory))
        self.create, self.modify, self.read, self.rename, self.unlink = (
            fs.create,
            fs.modify,
            fs.read,
            fs.rename,
            fs.unlink,
        )
        self.size, self.exists, self.is_folder, self.mkdir, self.rmdir, self.fsync_dir = (
            fs.size,
            fs.exists,
            fs.is_folder,
            fs.mkdir,
            fs.rmdir,
            fs.fsync_dir,
        )

    def listdir(self, path: Path) -> list[str]:
        """See FileSystem."""
        names = self._fs.listdir(path)
        if path not in self._folders:
            return names
        return [name for name in names if path / name in self._shown or path / name in self._folders]
