"""Fixtures: fake services, and a source that uses them with short waits."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio

from mdserver.plugin import HistoryHost
from mdserver.testing.dukascopy import FakeDukascopy, open_fake_dukascopy
from mdserver_dukascopy import DukascopyConfig, DukascopySource, open_source

DEADLINE_S = 20.0

Open = Callable[..., AbstractAsyncContextManager[DukascopySource]]


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
async def feed() -> AsyncIterator[FakeDukascopy]:
    async with open_fake_dukascopy() as feed:
        yield feed


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def open_it(feed: FakeDukascopy, notices: list[str]) -> Open:
    """Open a source on the fake services; keywords are settings, ``cache_dir`` or ``source_dir``."""

    @asynccontextmanager
    async def open_it(
        cache_dir: Path | None = None, source_dir: Path | None = None, **settings: object
    ) -> AsyncIterator[DukascopySource]:
        defaults = {
            "url": feed.url,
            "jetta_url": feed.jetta_url,
            "pause_s": 0,
            "backoff_s": 0.02,
            "timeout_s": 0.5,
        }
        config = DukascopyConfig(**{**defaults, **settings})  # type: ignore[arg-type]
        host = HistoryHost(structlog.get_logger(), notices.append, cache_dir, source_dir)
        async with open_source(config, host) as source:
            yield source

    return open_it
