"""``GET /api/candles``: one series, one timeframe, a range."""

from __future__ import annotations

from collections.abc import Iterable

from quart import Request, Response

from ..model import TIMEFRAMES, US_PER_S
from .answers import answer, format_of
from .caching import DigestMemory, Span, cache_control, version_key
from .choice import PRICES, choose_series, price_of, symbol_not_stored
from .params import query_of, symbol_of, time_range_us, timeframe_of
from .problem import Problem
from .services import CandleColumnsLike, ReadStore, SeriesLike, Services
from .tables import Body, CandleRow, Column, Format, build_body, seconds, whole

__all__ = ["MAX_CANDLES", "QUERY", "candles_answer", "series_headers", "stored_series"]

MAX_CANDLES = 1_000_000
"""Opens that one request may cover: close to two years of minutes."""

QUERY = ("symbol", "timeframe", "from", "to", "broker", "price")


async def candles_answer(
    request: Request,
    services: Services,
    store: ReadStore,
    memory: DigestMemory,
    path: Iterable[tuple[str, str]] = (),
) -> Response:
    """Answer a request for candles; ``path`` holds the parameters that came in the path."""
    in_path = dict(path)
    known = [name for name in QUERY if name not in in_path]
    query = in_path | query_of(request.args.items(multi=True), known)
    symbol, timeframe_s = symbol_of(query), timeframe_of(query)
    span = _span(*time_range_us(query), timeframe_s)
    wanted = price_of(query)
    series = choose_series(
        await stored_series(store, symbol),
        services.broker_order,
        symbol,
        broker=query.get("broker"),
        wanted=wanted,
    )
    form = format_of(request)

    async def build() -> Body:
        if span.is_empty:
            return await _encode(None, form)
        opens = span.first_us // US_PER_S, span.last_us // US_PER_S
        return await _encode(await store.candles(series.id, timeframe_s, *opens), form)

    caching = cache_control(
        series, span, now_us=services.now_us(), flush_s=services.flush_s, settle_s=services.settle_s
    )
    return await answer(
        request,
        build,
        form=form,
        headers={"Cache-Control": caching, "X-Price": PRICES[series.type], **series_headers(series)},
        memory=memory,
        key=("candles", form, *version_key(series, span)),
    )


async def stored_series(store: ReadStore, symbol: str) -> list[SeriesLike]:
    """Return all series of a symbol; none is a problem."""
    stored = list(await store.series(symbol))
    if not stored:
        raise symbol_not_stored(symbol, await store.series())
    return stored


def series_headers(series: SeriesLike) -> dict[str, str]:
    """Return the headers that say which series answered and what is stored of it."""
    headers = {"X-Broker": series.broker}
    if series.earliest_us is not None and series.latest_us is not None:
        first, last = seconds([series.earliest_us, series.latest_us])
        headers |= {"X-Available-From": str(first), "X-Available-To": str(last)}
    return headers


def _span(from_us: int, to_us: int, timeframe_s: int) -> Span:
    """Return the buckets that open in [from, to]: the same for all queries that mean the same candles."""
    bucket_us = timeframe_s * US_PER_S
    span = Span(-(-from_us // bucket_us) * bucket_us, to_us // bucket_us * bucket_us, bucket_us)
    opens = (span.last_us - span.first_us) // bucket_us + 1
    if opens > MAX_CANDLES:
        name = next(name for name, length_s in TIMEFRAMES.items() if length_s == timeframe_s)
        detail = f"{opens} candles of {name} open from `from` to `to`; expected at most {MAX_CANDLES}"
        raise Problem(
            400, "range_too_large", f"{detail}: narrow the range or take a longer timeframe", param="to"
        )
    return span


async def _encode(candles: CandleColumnsLike | None, form: Format) -> Body:
    columns: list[Column] = [[]] * len(CandleRow.__struct_fields__)
    if candles is not None:
        prices = (candles.open, candles.high, candles.low, candles.close, candles.volume)
        columns = [candles.time, *map(whole, prices)]
    return await build_body(CandleRow, columns, form)
