"""Fixtures: a fake venue, and broker sessions against it."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mdserver.testing.host import FakeHost
from mdserver.testing.oanda import FakeOanda, OandaRules, open_fake_oanda
from mdserver_oanda import OandaBroker, OandaConfig
from mdserver_oanda.broker import Timing

DEADLINE_S = 20.0
FAST = Timing(connect_gap_s=0.0, gather_s=0.02, settle_s=2.0, overlap_s=0.1, retry_s=0.1)

Start = Callable[..., Awaitable[None]]


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
def rules() -> OandaRules:
    """A venue where nothing moves unless the test says so, and any number of connections is served."""
    return OandaRules(heartbeat_s=0.1, price_every_s=None, max_connects=1000)


@pytest.fixture
async def venue(rules: OandaRules) -> AsyncIterator[FakeOanda]:
    async with open_fake_oanda(rules) as venue:
        yield venue


def make_broker(venue: FakeOanda, timing: Timing = FAST, **settings: object) -> OandaBroker:
    """Return a broker of the fake's account; ``settings`` replace those of its config."""
    config = {
        "url": venue.url,
        "rest_url": venue.rest_url,
        "account_id": venue.account_id,
        "api_key": venue.api_key,
        "silence_s": 3.0,
    }
    return OandaBroker(OandaConfig(**{**config, **settings}), timing)  # type: ignore[arg-type]


@pytest.fixture
def start(venue: FakeOanda, nursery: trio.Nursery) -> Start:
    """Start a session that the test does not expect to end."""

    async def start(host: FakeHost, timing: Timing = FAST, **settings: object) -> None:
        await nursery.start(functools.partial(make_broker(venue, timing, **settings).run, host))

    return start
