"""Fixtures: a fake venue, and broker sessions against it."""

import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.broker import Timing

DEADLINE_S = 20.0
FAST = Timing(lifetime_s=3600.0, overlap_s=0.1, retry_s=0.05)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each asynchronous test of this folder a deadline."""
    for item in items:
        here = isinstance(item, pytest.Function) and item.path.parent == Path(__file__).parent
        if here and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**arguments: object) -> None:
        with trio.fail_after(DEADLINE_S):
            await test(**arguments)

    return run


@pytest.fixture
async def venue() -> AsyncIterator[FakeBinance]:
    """A venue in which only the test lets things happen; it lists ``S0`` to ``S1099`` too."""
    async with open_fake_binance(BinanceRules(pace_s=math.inf)) as venue:
        numbered = {f"S{number}": ("TRADING", f"S{number}", "X") for number in range(1100)}
        venue.instruments = venue.instruments | numbered
        yield venue


@pytest.fixture
def start(venue: FakeBinance, nursery: trio.Nursery) -> Callable[..., Awaitable[BinanceBroker]]:
    """Start a session that the test does not expect to end; return the broker."""

    async def start(
        host: FakeHost, timing: Timing = FAST, *, max_streams: int = 1024, **settings: object
    ) -> BinanceBroker:
        config = BinanceConfig(**({"url": venue.url, "rest_url": venue.rest_url} | settings))  # type: ignore[arg-type]
        broker = BinanceBroker(config, timing, max_streams=max_streams)
        await nursery.start(functools.partial(broker.run, host))
        return broker

    return start
