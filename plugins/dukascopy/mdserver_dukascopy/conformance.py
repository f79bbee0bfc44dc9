"""What the conformance suite needs to know of this plugin: the fake services with one hour of ticks and one without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mdserver.market_hours import HOUR_US
from mdserver.testing.conformance import HistoryCase
from mdserver.testing.dukascopy import FakeDukascopy, FakeTick, Fault, open_fake_dukascopy

from . import plugin

__all__ = ["DukascopyCase", "case"]

_HOUR_US = 1_706_779_200_000_000 // HOUR_US * HOUR_US
"""In February 2024, on a Thursday."""


class DukascopyCase(HistoryCase[FakeDukascopy]):
    """Both services."""

    plugin = plugin
    full_hour_us = _HOUR_US
    empty_hour_us = _HOUR_US + HOUR_US
    missing_hour_us = _HOUR_US + 2 * HOUR_US

    def open_venue(self) -> AbstractAsyncContextManager[FakeDukascopy]:
        """Open one with ticks of EURUSD."""
        return _open_venue()

    def settings(self, venue: FakeDukascopy) -> Mapping[str, object]:
        """Return the addresses and short waits."""
        return {
            "url": venue.url,
            "jetta_url": venue.jetta_url,
            "pause_s": 0,
            "attempts": 2,
            "backoff_s": 0,
            "max_backoff_s": 0,
            "timeout_s": 5,
        }

    async def damage(self, venue: FakeDukascopy) -> None:
        """Change bytes in the middle of each file."""
        venue.fail(Fault("garbage"))

    async def go_away(self, venue: FakeDukascopy) -> None:
        """Answer 503 to everything."""
        venue.fail(Fault("status", status=503))


@asynccontextmanager
async def _open_venue() -> AsyncIterator[FakeDukascopy]:
    async with open_fake_dukascopy() as venue:
        rows = [FakeTick(1000 * n, 108_705 + n, 108_703 + n) for n in range(100)]
        venue.put_hour("EURUSD", "EUR-USD", _HOUR_US, rows, decimals=5)
        venue.put_hour("EURUSD", "EUR-USD", _HOUR_US + HOUR_US, [], decimals=5)
        yield venue


case = DukascopyCase()
