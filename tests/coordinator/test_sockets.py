"""Addresses that cannot be had: what is said, and that nothing stays."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from shardhash.coordinator.sockets import check_free, refusal
from shardhash.errors import ConfigError
from shardhash.wire.address import parse_bind


@pytest.mark.parametrize(
    ("place", "number", "words"),
    [
        (
            "127.0.0.1:8686",
            errno.EADDRINUSE,
            "Address already in use; stop what listens there (ss -ltnp 'sport = :8686'",
        ),
        (
            "ws://:80",
            errno.EACCES,
            "Permission denied; ports below 1024 need the capability CAP_NET_BIND_SERVICE or a so",
        ),
        (":8080", errno.EACCES, "cannot listen on :8080: Permission denied"),
        ("192.0.2.1:1", errno.EADDRNOTAVAIL, "requested address; give an address of this machine"),
        ("unix:///missing/a.sock", errno.ENOENT, "No such file or directory; make the folder /missing"),
        ("unix:///run/a.sock", errno.EACCES, "Permission denied; let this user write into /run"),
    ],
)
def test_a_refusal_says_what_to_do(place: str, number: int, words: str) -> None:
    assert words in str(refusal(parse_bind(place)[0], OSError(number, os.strerror(number))))


async def test_what_is_free_stays_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        address, other = parse_bind(f"127.0.0.1:{port}")[0], parse_bind(f"unix://{tmp_path}/a.sock")[0]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await check_free([other, address])
    await check_free([other, address])
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # one entry at most
