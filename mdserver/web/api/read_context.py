"""What all answers from the store share: the store itself, its series, how long an answer may be cached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from ...feed.broker_state import BrokerState
from ...model import US_PER_S
from ...store.store import SeriesInfo, Store
from .bucket_choice import Interval
from .caching import IMMUTABLE, REVALIDATE, DigestMemory, Span, cache_control
from .dependencies import Dependencies, SourceInfo
from .encoding import seconds
from .guard import current_grant
from .lake_records import LakeTurns
from .problem import Problem
from .series_choice import configured_series, symbol_unknown

__all__ = ["Reading", "series_headers"]

ENCODED_AT_ONCE = 4
"""How many bodies are encoded at the same time: each takes one or two milliseconds of every pass of the loop."""

LARGE_AT_ONCE = 2
"""How many large answers are made at the same time: each may take some hundreds of megabytes for a moment."""

FROM_LAKE_AT_ONCE = 2
"""Pages that are read from the data lake at the same time: each holds some of its objects in memory."""

MAX_GAPS = 10_000
"""How many gaps of one series in one range are considered: no bucket after the last of them counts as complete."""

MAX_TIME_US = 7_258_118_400 * US_PER_S
"""2200-01-01: no record has a later time."""


@attrs.frozen
class Reading:
    """The reading side of the routes; one for the whole app."""

    services: Dependencies
    memory: DigestMemory = attrs.field(factory=DigestMemory)
    encoding: trio.CapacityLimiter = attrs.field(factory=partial(trio.CapacityLimiter, ENCODED_AT_ONCE))
    large: trio.CapacityLimiter = attrs.field(factory=partial(trio.CapacityLimiter, LARGE_AT_ONCE))
    from_lake: LakeTurns = attrs.field(factory=lambda: LakeTurns(trio.CapacityLimiter(FROM_LAKE_AT_ONCE)))

    @property
    def store(self) -> Store:
        """The store. Raises :class:`Problem` if there is none."""
        if self.services.store is None:
            raise Problem(503, "unavailable", "this server stores no records: database.store is false")
        return self.services.store

    async def series_of(self, symbol: str, *, param: str = "symbol") -> list[SeriesInfo]:
        """Return all series of a symbol, including configured ones without records. Raises Problem if there is none.

        ``param`` is the parameter that named the symbol.
        """
        known = self._with_configured(await self.store.series(symbol), symbol)
        if not known:
            raise symbol_unknown(symbol, await self.all_series(), param)
        return known

    def seen_brokers(self) -> list[BrokerState]:
        """Return the states of the brokers that the client may see."""
        return [one for one in self.services.broker_states() if current_grant().may_see(one.name, None)]

    def seen_sources(self) -> list[SourceInfo]:
        """Return the sources that the client may see, in their order of preference."""
        return [one for one in self.services.sources() if current_grant().may_see(one.name, None)]

    async def stored_series(self, symbol: str) -> list[SeriesInfo]:
        """Return the stored series of a symbol that the client may see."""
        return _seen(await self.store.series(symbol))

    async def all_series(self) -> list[SeriesInfo]:
        """Return all series, including configured ones without records."""
        return self._with_configured(await self.store.series())

    def _with_configured(self, stored: Sequence[SeriesInfo], symbol: str | None = None) -> list[SeriesInfo]:
        topics = {series.topic for series in stored}
        empty = configured_series(self.services.sources(), symbol)
        return _seen([*stored, *(series for series in empty if series.topic not in topics)])

    async def gaps(self, series: SeriesInfo, from_s: int, to_s: int) -> Sequence[Interval]:
        """Return when records of a series are missing within a range, in microseconds.

        These are its recorded gaps, but those that were filled; one that lasts goes on for ever.
        """
        found = await self.store.missing_times(series.id, from_s * US_PER_S, to_s * US_PER_S, limit=MAX_GAPS)
        return [(from_us, MAX_TIME_US if to_us is None else to_us) for from_us, to_us in found]

    async def cache_control(
        self, series: Sequence[SeriesInfo], span: Span, *, until_us: int, named: bool
    ) -> str:
        """Return the Cache-Control of an answer that covers ``span``, with records up to ``until_us``.

        ``named``: the request named its source. Only imported hours are known to be final, so only those are immutable.
        """
        services = self.services
        control = cache_control(
            series, span, now_us=services.now_us(), flush_s=services.flush_s, settle_s=services.settle_s
        )
        if control != IMMUTABLE:
            return control
        if named and await self.store.is_settled(series[0].id, span.first_us, until_us):
            return control
        return REVALIDATE


def _seen(series: Sequence[SeriesInfo]) -> list[SeriesInfo]:
    grant = current_grant()
    return [one for one in series if grant.is_whole or grant.may_see(one.broker, one.symbol)]


def series_headers(series: Sequence[SeriesInfo]) -> dict[str, str]:
    """Return the headers with the first and last time that is stored of these series."""
    earliest = [one.earliest_us for one in series if one.earliest_us is not None]
    latest = [one.latest_us for one in series if one.latest_us is not None]
    if not earliest or not latest:
        return {}
    first, last = seconds([min(earliest), max(latest)])
    return {"X-Available-From": str(first), "X-Available-To": str(last)}
