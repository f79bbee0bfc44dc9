"""A long request is given up as soon as something else is wanted, and no answer is lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mdserver.errors import Unavailable
from mdserver.model import Feed
from mdserver.net import unless_changed
from mdserver.testing import FakeDemand

EURUSD = Feed("EURUSD", "tick")
GBPUSD = Feed("GBPUSD", "tick")


async def test_the_answer_is_returned() -> None:
    async def ask() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    demand = FakeDemand([EURUSD])
    assert await unless_changed(demand, demand.current(), ask) == 7


async def test_a_change_of_demand_cancels_the_request() -> None:
    demand = FakeDemand([EURUSD])
    over = trio.Event()

    async def ask() -> None:
        try:
            await trio.sleep_forever()
        finally:
            over.set()

    async def poll() -> None:
        assert await unless_changed(demand, frozenset([EURUSD]), ask) is None
        assert over.is_set()

    with trio.fail_after(30):
        async with trio.open_nursery() as polling:
            polling.start_soon(poll)
            await trio.testing.wait_all_tasks_blocked()
            assert not over.is_set()
            demand.set([EURUSD, GBPUSD])


async def test_an_answer_that_came_with_the_change_is_kept() -> None:
    demand = FakeDemand([EURUSD])

    async def ask() -> int:
        demand.set([GBPUSD])
        return 7

    assert await unless_changed(demand, frozenset([EURUSD]), ask) == 7


async def test_an_error_is_raised_as_it_is() -> None:
    async def ask() -> None:
        raise Unavailable("gone")

    demand = FakeDemand([EURUSD])
    with pytest.raises(Unavailable, match="gone"):
        await unless_changed(demand, demand.current(), ask)
