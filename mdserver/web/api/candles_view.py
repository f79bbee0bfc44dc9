"""``GET /api/candles``: one series, one timeframe, a range."""

from __future__ import annotations

from collections.abc import Iterable

from quart import Request, Response

from ...model import TIMEFRAMES, US_PER_S
from ...store.store import CandleColumns, SeriesInfo, Store
from .caching import Span, version_key
from .conditional import answer, format_of
from .encoding import Body, CandleRow, Column, Format, build_body, without_fraction
from .params import query_of, symbol_of, time_range_us, timeframe_of
from .problem import Problem
from .read_context import Reading, series_headers
from .series_choice import PRICES, Price, choose_series, default_price, price_of

__all__ = ["MAX_CANDLES", "MAX_TICKS", "QUERY", "candles_answer"]

MAX_CANDLES = 1_000_000
"""Opens that one request may cover: close to two years of minutes."""

LARGE_CANDLES = 50_000
"""From here on only a few answers are made at a time."""

MAX_TICKS = 5_000_000
"""Ticks that one request for bid or ask candles may have read: some seconds of work."""

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
    asked, form = price_of(query), format_of(request, query)
    stored = await reading.series_of(symbol)
    order = reading.services.sources()
    wanted = None if asked is None else PRICES[asked]
    series = choose_series(stored, order, symbol, broker=query.get("broker"), wanted=wanted)
    price = default_price(series) if asked is None else asked

    async def build() -> Body:
        if span.buckets > LARGE_CANDLES or price in {"bid", "ask"}:
            async with reading.large:
                return await _body(await _read(reading.store, series, span, price), form)
        return await _body(await _read(reading.store, series, span, price), form)

    return await answer(
        request,
        build,
        form=form,
        headers={
            "Cache-Control": reading.cache_control(series, span),
            "X-Price": price,
            **series_headers(series),
        },
        memory=reading.memory,
        key=("candles", price, form, *version_key(series, span)),
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


async def _read(store: Store, series: SeriesInfo, span: Span, price: Price) -> CandleColumns | None:
    """Return the candles of ``span``; None if no candle opens in it."""
    if span.is_empty:
        return None
    bucket_s = span.bucket_us // US_PER_S
    opens = (span.first_us // US_PER_S, span.last_us // US_PER_S)
    if price == "mid" or price == "trade":
        return await store.candles(series.id, bucket_s, *opens)
    ticks = await store.count_ticks(series.id, bucket_s, *opens)
    if ticks > MAX_TICKS:
        detail = f"{price} candles are computed from the ticks, and {ticks} are stored from `from` to `to`"
        raise Problem(
            400, "range_too_large", f"{detail}; expected at most {MAX_TICKS}: narrow the range", param="to"
        )
    return await store.side_candles(series.id, bucket_s, *opens, price)


async def _body(candles: CandleColumns | None, form: Format) -> Body:
    if candles is None:
        return await build_body(CandleRow, [Column(())] * len(CandleRow.__struct_fields__), form)
    numbers = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    columns = [Column(candles.time), *(Column(values, without_fraction) for values in numbers)]
    return await build_body(CandleRow, columns, form)
