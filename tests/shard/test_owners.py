"""Refusals of permission say whose the files are, and who asked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardhash.admin.cli import verify
from shardhash.base.owners import describe
from shardhash.errors import ConfigError, StorageError
from shardhash.shard.directory.generations import prepare_directory
from shardhash.shard.directory.lock import lock_directory
from shardhash.shard.directory.manifest import make_directory
from shardhash.shard.storage.filesystem import OsFileSystem
from shardhash.shard.storage.recovery import ignore_progress, open_shard

FS = OsFileSystem()
NOBODY = 65534


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that everybody finds, and only its owner may open."""
    folder = Path(tempfile.mkdtemp(prefix="shardhash-test-"))
    folder.chmod(0o755)
    make_directory(FS, folder / "data")
    prepare_directory(FS, folder / "data", 1, ignore_progress)
    yield folder / "data"
    shutil.rmtree(folder)


@contextmanager
def someone_else(data: Path) -> Iterator[None]:
    """As another user; for whoever cannot become one, as an owner without rights."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        data.chmod(0)
        try:
            yield
        finally:
            data.chmod(0o700)


def test_whose_it_is_and_who_asked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = data.stat().st_uid
    assert verify(["--data", str(data)]) == 0
    with someone_else(data):
        words = rf"Permission denied; {data} belongs to .*\({owner}\); this process runs as .*\({os.geteuid()}\)"
        with pytest.raises(ConfigError, match=words), lock_directory(data):
            raise AssertionError
        with pytest.raises(StorageError, match=words):
            open_shard(FS, data / "generation-000001" / "shard-000")
        if owner != os.geteuid():
            with pytest.raises(ConfigError, match=r"Permission denied; .* belongs to"):
                make_directory(FS, data.parent / "other")
        assert verify(["--data", str(data)]) != 0
    assert "Permission denied" in capsys.readouterr().err


def test_other_errors_are_left_as_they_are() -> None:
    assert describe(FileNotFoundError(2, "No such file or directory", "x")) == "No such file or directory"
    assert "belongs to" in describe(PermissionError(13, "Permission denied"), Path("/"))
