"""What all answers from the store share: the store itself, its series, how long an answer may be kept."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from .caching import DigestMemory, Span, cache_control
from .dependencies import Dependencies, ReadStore, SeriesLike
from .encoding import seconds
from .problem import Problem
from .series_choice import symbol_not_stored

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
    def store(self) -> ReadStore:
        """The store; that there is none is a problem of the request."""
        if self.services.store is None:
            raise Problem(503, "unavailable", "this server does not store: database.store is off")
        return self.services.store

    async def series_of(self, symbol: str) -> list[SeriesLike]:
        """Return all series of a symbol; none is a problem."""
        stored = list(await self.store.series(symbol))
        if not stored:
            raise symbol_not_stored(symbol, await self.store.series())
        return stored

    def cache_control(self, series: SeriesLike, span: Span) -> str:
        """Return the Cache-Control of an answer that covers ``span``."""
        services = self.services
        return cache_control(
            series, span, now_us=services.now_us(), flush_s=services.flush_s, settle_s=services.settle_s
        )


def series_headers(series: SeriesLike) -> dict[str, str]:
    """Return the headers that say which series answered and what is stored of it."""
    headers = {"X-Broker": series.broker}
    if series.earliest_us is not None and series.latest_us is not None:
        first, last = seconds([series.earliest_us, series.latest_us])
        headers |= {"X-Available-From": str(first), "X-Available-To": str(last)}
    return headers
