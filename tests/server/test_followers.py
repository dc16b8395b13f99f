"""Beginnings of a follower: what happens meanwhile is neither missed nor counted twice."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from shardhash.coordinator.bind import Bind
from shardhash.coordinator.users import Users
from shardhash.link.peer import Peer
from shardhash.server.followers import Followers, _Follower
from shardhash.server.settings import Settings
from shardhash.server.supervisor import Supervisor
from shardhash.server.worker_processes import WorkerProcess
from shardhash.stores.sharded.follower import FollowerRouter
from shardhash.stores.sharded.router import Router
from shardhash.wire.address import parse_bind
from tests.stores.shards import running

LIMIT = 20.0


def start_nothing(_shard: int) -> WorkerProcess:
    raise AssertionError("nothing ends here")


async def nobody_asks(*_: Any) -> Any:
    raise AssertionError("nothing is asked at home")


async def test_a_removal_while_a_follower_begins_is_counted_once() -> None:
    async with running(1) as shards, asyncio.timeout(LIMIT):
        links = [shard.link for shard in shards]
        settings = Settings((Bind(parse_bind("127.0.0.1:0")[0]),), 1, None, coordinators=2)
        followers = Followers(settings, Supervisor([], [], start_nothing, durable=False), links)
        home, follower = Router(links, others=followers), FollowerRouter(links, 1 << 20, nobody_asks)
        followers._router, followers._users, followers._listening = home, Users(home), []
        may_end, serves = asyncio.Event(), asyncio.Event()
        removals: list[asyncio.Task[int]] = []

        async def removal() -> int:
            await may_end.wait()
            return 7

        async def answer(name: str, *arguments: Any) -> None:
            match name:
                case "prepare":
                    pass
                case "know":
                    removals.append(asyncio.create_task(home._forget_until_done(removal())))
                    for _ in range(3):  # it begins
                        await asyncio.sleep(0)
                case "serve":
                    follower.take(*arguments)
                    serves.set()
                case _:
                    await follower.told(name, *arguments)

        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        child = _Follower(1, await asyncio.create_subprocess_exec("true"), near)
        beginning = asyncio.create_task(followers._run(child, 1))
        peer = asyncio.create_task((await Peer.open(far, answer, "home")).run())
        await serves.wait()
        may_end.set()
        assert await removals[0] == 7
        assert follower._answers._running == 0
        peer.cancel()
        assert await beginning == "ended with status 0"
        await asyncio.wait([peer])
        await home.close()
        await follower.close()
