"""Fixtures: a fake venue, and broker sessions against it."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from mdserver.testing.binance import FakeBinance, open_fake_binance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.broker import Timing

FAST = Timing(lifetime_s=3600.0, overlap_s=0.1, retry_s=0.05)


@pytest.fixture
async def venue() -> AsyncIterator[FakeBinance]:
    async with open_fake_binance() as venue:
        yield venue


@pytest.fixture(autouse=True)
async def deadline(nursery: trio.Nursery) -> None:
    """Fail a test that hangs."""

    async def fail() -> None:
        with trio.fail_after(20):
            await trio.sleep_forever()

    nursery.start_soon(fail)


@pytest.fixture
def start(venue: FakeBinance, nursery: trio.Nursery) -> Callable[..., Awaitable[BinanceBroker]]:
    """Start a session that the test does not expect to end; return the broker."""

    async def start(host: FakeHost, timing: Timing = FAST, **settings: object) -> BinanceBroker:
        broker = BinanceBroker(BinanceConfig(url=venue.url, **settings), timing)  # type: ignore[arg-type]
        await nursery.start(functools.partial(broker.run, host))
        return broker

    return start
