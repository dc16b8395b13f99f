"""A text that rotted on the disk: the one who asks for it is told so, and nobody else notices."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from shardhash.client import create_async_client
from shardhash.errors import InvokeError
from tests.servers import ServerProcess

H = "0" * 64


def rot(folder: Path) -> None:
    (path,) = folder.rglob("siginfo-*")
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


async def test_asking_for_a_damaged_text_is_refused_and_ends_no_worker(tmp_path: Path) -> None:
    with ServerProcess("--data", str(tmp_path / "data"), "--workers", "2") as server:
        workers = {child.pid for child in psutil.Process(server.process.pid).children()}
        async with await create_async_client(server.address) as client:
            await client.report_unihash(H, "m", H, H, {"outhash_siginfo": "a text"})
            rot(tmp_path)
            with pytest.raises(InvokeError, match="an outhash_siginfo is damaged"):
                await client.get_outhash("m", H, H)
        async with await create_async_client(server.address) as client:
            with pytest.raises(InvokeError, match="an outhash_siginfo is damaged"):
                await client.remove({"outhash_siginfo": "another text"})
        async with await create_async_client(server.address) as client:
            assert await client.get_unihash("m", H) == H
        assert {child.pid for child in psutil.Process(server.process.pid).children()} == workers
