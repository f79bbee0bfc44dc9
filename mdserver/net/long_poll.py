"""A request that may take long, for a venue that is polled: a change of what is wanted ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ..model import Feed
from ..plugin import Demand

__all__ = ["unless_changed"]

T = TypeVar("T")


async def unless_changed(demand: Demand, known: frozenset[Feed], ask: Callable[[], Awaitable[T]]) -> T | None:
    """Return what ``ask()`` returns, or None as soon as the demand differs from ``known``.

    For a request that may take long, such as a long poll: a change of demand cancels it. An answer that has come is
    never dropped. An error of ``ask`` is raised as it is, not in a group.
    """
    found: T | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await demand.wait_changed(known)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            found = await ask()
        except Exception as error:  # noqa: BLE001 - raised below, where the nursery puts it into no group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found
