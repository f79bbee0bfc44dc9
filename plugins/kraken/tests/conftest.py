"""Fixtures: a fake venue in which only the test lets things happen, and broker sessions against it."""

import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import FakeKraken, KrakenRules, open_fake_kraken
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_kraken.link import Timing

DEADLINE_S = 20.0
FAST = Timing(answer_s=0.3, attempts=3, request_gap_s=0.01, renew_s=0.1, instruments_s=2.0)


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
async def venue() -> AsyncIterator[FakeKraken]:
    async with open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=0.05)) as venue:
        yield venue


@pytest.fixture
def start(venue: FakeKraken, nursery: trio.Nursery) -> Callable[..., Awaitable[KrakenBroker]]:
    """Start a session that the test does not expect to end; return the broker."""

    async def start(host: FakeHost, timing: Timing = FAST, **settings: object) -> KrakenBroker:
        config = KrakenConfig(url=venue.url, rest_url=venue.rest_url, **settings)  # type: ignore[arg-type]
        broker = KrakenBroker(config, timing)
        await nursery.start(functools.partial(broker.run, host))
        return broker

    return start
