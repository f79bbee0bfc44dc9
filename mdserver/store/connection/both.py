"""Do two units of work at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ...errors import StoreUnavailable

__all__ = ["both"]

T = TypeVar("T")


async def both(one: Callable[[], Awaitable[T]], other: Callable[[], Awaitable[T]]) -> tuple[T, T]:
    """Return what both return; if one fails the other is cancelled. StoreUnavailable comes out of it ungrouped."""
    results: dict[int, T] = {}
    away: list[BaseException] = []

    async def run(place: int, work: Callable[[], Awaitable[T]]) -> None:
        results[place] = await work()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 0, one)
            nursery.start_soon(run, 1, other)
    except* StoreUnavailable as group:
        away.extend(group.exceptions)
    if away:
        raise away[0]
    return results[0], results[1]
