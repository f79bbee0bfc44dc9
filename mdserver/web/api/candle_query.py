"""Parse a request for candles: everything that is decided before the store is read. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...model import TIMEFRAMES, US_PER_S, RecordType
from .caching import Span
from .params import symbol_of, time_range_us, timeframe_of
from .problem import Problem
from .series_choice import PRICES, Price, price_of

__all__ = ["MAX_CANDLES", "QUERY", "CandleQuery"]

MAX_CANDLES = 1_000_000
"""How many candles one request may cover: nearly two years of minutes."""

QUERY = ("symbol", "timeframe", "from", "to", "broker", "price", "format")


@attrs.frozen
class CandleQuery:
    """Which candles are requested. ``price`` None: the default of each source."""

    symbol: str
    span: Span
    broker: str | None
    price: Price | None

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> CandleQuery:
        """Return the query for checked parameters (:func:`params.query_of`). Raises :class:`Problem`."""
        symbol, timeframe_s = symbol_of(query), timeframe_of(query)
        span = _span(*time_range_us(query), timeframe_s)
        return cls(symbol, span, query.get("broker"), price_of(query))

    @property
    def timeframe_s(self) -> int:
        """The length of a candle."""
        return self.span.bucket_us // US_PER_S

    @property
    def opens_s(self) -> tuple[int, int]:
        """The first and the last open, in Unix seconds."""
        return self.span.first_us // US_PER_S, self.span.last_us // US_PER_S

    @property
    def record_type(self) -> RecordType | None:
        """The type of records that the price is made from; None if the sources decide."""
        return None if self.price is None else PRICES[self.price]


def _span(from_us: int, to_us: int, timeframe_s: int) -> Span:
    """Return the buckets that open in [from, to]; queries for the same candles get equal spans."""
    bucket_us = timeframe_s * US_PER_S
    span = Span(-(-from_us // bucket_us) * bucket_us, to_us // bucket_us * bucket_us, bucket_us)
    if span.buckets > MAX_CANDLES:
        name = next(name for name, length_s in TIMEFRAMES.items() if length_s == timeframe_s)
        detail = f"{span.buckets} candles of {name} open from `from` to `to`; expected at most {MAX_CANDLES}"
        raise Problem(
            400, "range_too_large", f"{detail}: narrow the range or take a longer timeframe", param="to"
        )
    return span
