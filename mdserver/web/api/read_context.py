"""What all answers from the store share: the store itself, its series, how long an answer may be kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from ...store.store import SeriesInfo, Store
from .caching import DigestMemory, Span, cache_control
from .dependencies import Dependencies
from .encoding import seconds
from .problem import Problem
from .series_choice import configured_series, symbol_unknown

__all__ = ["Reading", "series_headers"]

LARGE_AT_ONCE = 2
"""Large answers in the making: each may hold some hundreds of megabytes for a moment."""


@attrs.frozen
class Reading:
    """The reading side of the routes; one for the whole app."""

    services: Dependencies
    memory: DigestMemory = attrs.field(factory=DigestMemory)
    large: trio.CapacityLimiter = attrs.field(factory=partial(trio.CapacityLimiter, LARGE_AT_ONCE))

    @property
    def store(self) -> Store:
        """The store; that there is none is a problem of the request."""
        if self.services.store is None:
            raise Problem(503, "unavailable", "this server does not store: database.store is off")
        return self.services.store

    async def series_of(self, symbol: str) -> list[SeriesInfo]:
        """Return all series of a symbol, those that are configured and hold nothing yet included; none is a problem."""
        known = self._with_configured(await self.store.series(symbol), symbol)
        if not known:
            raise symbol_unknown(symbol, await self.all_series())
        return known

    async def all_series(self) -> list[SeriesInfo]:
        """Return all series, those that are configured and hold nothing yet included."""
        return self._with_configured(await self.store.series())

    def _with_configured(self, stored: Sequence[SeriesInfo], symbol: str | None = None) -> list[SeriesInfo]:
        topics = {series.topic for series in stored}
        empty = configured_series(self.services.sources(), symbol)
        return [*stored, *(series for series in empty if series.topic not in topics)]

    def cache_control(self, series: SeriesInfo, span: Span) -> str:
        """Return the Cache-Control of an answer that covers ``span``."""
        services = self.services
        return cache_control(
            series, span, now_us=services.now_us(), flush_s=services.flush_s, settle_s=services.settle_s
        )


def series_headers(series: SeriesInfo) -> dict[str, str]:
    """Return the headers that say which series answered and what is stored of it."""
    headers = {"X-Broker": series.broker}
    if series.earliest_us is not None and series.latest_us is not None:
        first, last = seconds([series.earliest_us, series.latest_us])
        headers |= {"X-Available-From": str(first), "X-Available-To": str(last)}
    return headers
