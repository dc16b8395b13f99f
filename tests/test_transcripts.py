"""Conformance: what the reference server answered, on every transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.coordinators import SEVERAL
from tests.player import CONFORMANCE, Player
from tests.servers import IN_MEMORY, ServerProcess

SCENARIOS = sorted(path.stem for path in CONFORMANCE.glob("*.jsonl"))
ADMIN = ("--admin-user", "admin", "--admin-password", "password", "--anon-perms", "@none")


def bind(transport: str, folder: Path, name: str) -> str:
    """An address to listen on."""
    match transport:
        case "unix":
            return f"unix://{folder}/{name}.sock"
        case "ws":
            return "ws://127.0.0.1:0"
        case _:
            return "127.0.0.1:0"


def kinds_of(scenario: str) -> set[str]:
    """The kinds of servers that a scenario talks to."""
    text = (CONFORMANCE / f"{scenario}.jsonl").read_text(encoding="utf-8")
    return {kind for kind in ("plain", "auth", "readonly") if f'"server": "{kind}"' in text}


def test_there_are_scenarios() -> None:
    assert {"handshake", "malformed", "streams", "auth"} < set(SCENARIOS)
    assert all(map(kinds_of, SCENARIOS))


@pytest.mark.parametrize(
    "transport",
    ["tcp", "unix", "ws", *(pytest.param(one, marks=pytest.mark.once) for one in ("tcp several", "ws several"))],
)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_transcript(
    scenario: str, transport: str, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    kinds = kinds_of(scenario)
    addresses = {}
    transport, _, several = transport.partition(" ")
    some = SEVERAL if several else ()
    if kinds & {"plain", "readonly"}:
        binds = [bind(transport, tmp_path, "plain"), bind(transport, tmp_path, "readonly") + ",read-only"]
        server = start_server(*IN_MEMORY, *some, binds=binds)
        addresses = {"plain": server.addresses[0], "readonly": server.addresses[1]}
    if "auth" in kinds:
        server = start_server(*IN_MEMORY, *some, *ADMIN, binds=[bind(transport, tmp_path, "auth")])
        addresses["auth"] = server.address
    await Player(addresses).play(CONFORMANCE / f"{scenario}.jsonl")
