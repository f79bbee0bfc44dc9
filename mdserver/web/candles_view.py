"""``GET /api/candles``: one series, one timeframe, a range."""

from __future__ import annotations

from collections.abc import Iterable

from quart import Request, Response

from ..model import TIMEFRAMES, US_PER_S
from .answers import answer, format_of
from .caching import Span, version_key
from .choice import PRICES, choose_series, price_of
from .params import query_of, symbol_of, time_range_us, timeframe_of
from .problem import Problem
from .reading import Reading, series_headers
from .services import SeriesLike
from .tables import Body, CandleRow, Column, Format, build_body, whole

__all__ = ["MAX_CANDLES", "QUERY", "candles_answer"]

MAX_CANDLES = 1_000_000
"""Opens that one request may cover: close to two years of minutes."""

LARGE_CANDLES = 50_000
"""From here on only a few answers are made at a time."""

QUERY = ("symbol", "timeframe", "from", "to", "broker", "price", "format")


async def candles_answer(
    request: Request, reading: Reading, path: Iterable[tuple[str, str]] = ()
) -> Response:
    """Answer a request for candles; ``path`` holds the parameters that came in the path."""
    in_path = dict(path)
    known = [name for name in QUERY if name not in in_path]
    query = in_path | query_of(request.args.items(multi=True), known)
    symbol, timeframe_s = symbol_of(query), timeframe_of(query)
    span = _span(*time_range_us(query), timeframe_s)
    wanted, form = price_of(query), format_of(request, query)
    stored = await reading.series_of(symbol)
    order = reading.services.broker_order
    series = choose_series(stored, order, symbol, broker=query.get("broker"), wanted=wanted)

    async def build() -> Body:
        if span.buckets > LARGE_CANDLES:
            async with reading.large:
                return await _read(reading, series, span, form)
        return await _read(reading, series, span, form)

    return await answer(
        request,
        build,
        form=form,
        headers={
            "Cache-Control": reading.cache_control(series, span),
            "X-Price": PRICES[series.type],
            **series_headers(series),
        },
        memory=reading.memory,
        key=("candles", form, *version_key(series, span)),
    )


def _span(from_us: int, to_us: int, timeframe_s: int) -> Span:
    """Return the buckets that open in [from, to]: the same for all queries that mean the same candles."""
    bucket_us = timeframe_s * US_PER_S
    span = Span(-(-from_us // bucket_us) * bucket_us, to_us // bucket_us * bucket_us, bucket_us)
    if span.buckets > MAX_CANDLES:
        name = next(name for name, length_s in TIMEFRAMES.items() if length_s == timeframe_s)
        detail = f"{span.buckets} candles of {name} open from `from` to `to`; expected at most {MAX_CANDLES}"
        raise Problem(
            400, "range_too_large", f"{detail}: narrow the range or take a longer timeframe", param="to"
        )
    return span


async def _read(reading: Reading, series: SeriesLike, span: Span, form: Format) -> Body:
    if span.is_empty:
        return await build_body(CandleRow, [Column(())] * len(CandleRow.__struct_fields__), form)
    candles = await reading.store.candles(
        series.id, span.bucket_us // US_PER_S, span.first_us // US_PER_S, span.last_us // US_PER_S
    )
    numbers = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    columns = [Column(candles.time), *(Column(values, whole) for values in numbers)]
    return await build_body(CandleRow, columns, form)
