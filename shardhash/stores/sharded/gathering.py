"""Gathering the answers of shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

_T = TypeVar("_T")


async def all_of(asked: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results of all; an error only once none is under way any more.

    A sweep that goes on in one shard, after another refused it, would meet the marks of the next collection.
    """
    results = await asyncio.gather(*asked, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
