"""``GET /api/candles``: a range of candles of any timeframe, of one symbol or several; see :mod:`.chart`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlencode

import attrs
from quart import Request, Response

from ...candles import QuotePrice
from ...model import US_PER_S
from ...store.store import MAX_TICKS, SeriesInfo, TooManyTicks
from .caching import IMMUTABLE, REVALIDATE, version_key
from .candle_query import FIELDS, QUERY, CandleQuery, cursor_at
from .chart import Chart, ChartReader
from .conditional import answer, format_of
from .encoding import (
    Body,
    Column,
    Format,
    build_body,
    candle_row,
    joined_bodies,
    shown_opens,
    without_fraction,
)
from .fill import filled
from .params import query_of
from .problem import Problem
from .read_context import Reading, series_headers
from .series_choice import candidates_of, default_price

__all__ = ["candles_answer"]

LARGE_CANDLES = 50_000
"""Only ``LARGE_AT_ONCE`` answers with more candles are made at the same time."""


@attrs.frozen
class _Page:
    """The candles of one symbol; ``more``: there are others behind them."""

    reader: ChartReader
    chart: Chart
    more: bool


async def candles_answer(
    request: Request, reading: Reading, path: Iterable[tuple[str, str]] = ()
) -> Response:
    """Answer a request for candles; ``path`` has the parameters that are in the path of the URL."""
    in_path = dict(path)
    known = [name for name in QUERY if name not in in_path and not (in_path and name == "symbols")]
    given = query_of(request.args.items(multi=True), known)
    parameters = in_path | given
    query, form = CandleQuery.parse(parameters), format_of(request, parameters)
    readers = {symbol: await _reader(reading, query, symbol) for symbol in query.symbols}
    series = [one for reader in readers.values() for one in reader.series]

    async def build() -> Body:
        async with AsyncExitStack() as stack:
            if _is_large(query):
                await stack.enter_async_context(reading.large)
            pages = {symbol: await _page(reader, query) for symbol, reader in readers.items()}
            cursor = _cut_alike(pages, query)
            body = await _body(reading, pages, query, form)
        used = {one.topic: one for page in pages.values() for one in page.chart.used()}.values()
        prices = dict.fromkeys(query.price or default_price(one) for one in used)
        brokers = dict.fromkeys(one.broker for one in used)
        headers = {"X-Broker": ", ".join(brokers), "X-Price": ", ".join(prices)}
        if cursor is not None:
            headers["X-Next-Cursor"] = cursor
            headers["Link"] = f'<?{urlencode({**given, "cursor": cursor})}>; rel="next"'
        return attrs.evolve(body, headers=headers)

    now_s = reading.services.now_us() // US_PER_S
    changing = query.timeframe.open_of(now_s) if "complete" in query.fields else None
    return await answer(
        request,
        build,
        form=form,
        headers={"Cache-Control": await _cache_control(reading, query, readers), **series_headers(series)},
        memory=reading.memory,
        key=("candles", query, form, changing, *(version_key(one, query.span) for one in series)),
    )


async def _reader(reading: Reading, query: CandleQuery, symbol: str) -> ChartReader:
    series = candidates_of(
        await reading.series_of(symbol, param="symbols" if query.by_symbol else "symbol"),
        reading.services.sources(),
        symbol,
        broker=query.broker,
        wanted=query.record_type,
    )
    return ChartReader(reading, series, query.timeframe, query.price)


def _is_large(query: CandleQuery) -> bool:
    candles = min(query.limit or query.span.buckets, query.span.buckets) * len(query.symbols)
    return candles > LARGE_CANDLES or query.price in {"bid", "ask"} or "vwap" in query.fields


async def _cache_control(reading: Reading, query: CandleQuery, readers: Mapping[str, ChartReader]) -> str:
    """Return what holds for all symbols."""
    named = query.broker is not None
    until_us = query.span.end_us - 1
    controls = {
        await reading.cache_control(reader.series, query.span, until_us=until_us, named=named)
        for reader in readers.values()
    }
    changing = controls - {IMMUTABLE}
    return controls.pop() if len(controls) == 1 else changing.pop() if len(changing) == 1 else REVALIDATE


async def _page(reader: ChartReader, query: CandleQuery) -> _Page:
    span = query.span
    first_s, last_s = span.first_us // US_PER_S, span.last_us // US_PER_S
    if span.is_empty:
        return _Page(reader, await reader.read(first_s, last_s), more=False)
    newest = query.sort == "desc"
    if query.limit is None:
        chart = await reader.read(first_s, last_s)
    else:
        chart, first_s, last_s = await reader.read_some(first_s, last_s, query.limit + 1, newest=newest)
    if query.fill != "none":
        chart = await filled(reader, chart, first_s, last_s, query.fill)
    most = len(chart) if query.limit is None else query.limit
    kept = chart.part(max(0, len(chart) - most), len(chart)) if newest else chart.part(0, most)
    return _Page(reader, kept, more=len(chart) > most)


def _cut_alike(pages: dict[str, _Page], query: CandleQuery) -> str | None:
    """Let the pages of all symbols end at the same time; return the cursor behind it, None behind the last page."""
    newest = query.sort == "desc"
    ends = [page.chart.candles.time[0 if newest else -1] for page in pages.values() if page.more]
    if not ends:
        return None
    end_s = max(ends) if newest else min(ends)
    for symbol, page in pages.items():
        times = page.chart.candles.time
        inside = [row for row, time in enumerate(times) if (time >= end_s if newest else time <= end_s)]
        if len(inside) < len(times):
            first = inside[0] if inside else 0
            pages[symbol] = attrs.evolve(page, chart=page.chart.part(first, first + len(inside)))
    return cursor_at(end_s)


async def _body(reading: Reading, pages: Mapping[str, _Page], query: CandleQuery, form: Format) -> Body:
    tables = {symbol: await _columns(page, query) for symbol, page in pages.items()}
    row = candle_row(query.fields)
    if not query.by_symbol:
        (table,) = tables.values()
        return await build_body(row, table, form, turn=reading.encoding)
    if form in ("json", "columns"):
        return joined_bodies(
            {
                symbol: await build_body(row, table, form, turn=reading.encoding)
                for symbol, table in tables.items()
            }
        )
    rows = [symbol for symbol, table in tables.items() for _ in table[0].values]
    stacked = [_stacked(columns) for columns in zip(*tables.values(), strict=True)]
    with_symbol = candle_row(("symbol", *query.fields))
    return await build_body(with_symbol, [Column(rows, form="text"), *stacked], form, turn=reading.encoding)


def _stacked(columns: Sequence[Column]) -> Column:
    values = [value for column in columns for value in column.values]
    return attrs.evolve(columns[0], values=values)


async def _columns(page: _Page, query: CandleQuery) -> list[Column]:
    """Return the columns that were asked for, in the order of the answer."""
    chart, candles = page.chart, page.chart.candles
    made: dict[str, Column] = {}
    for name in FIELDS:
        if name not in query.fields:
            continue
        if name == "time":
            made[name] = Column(candles.time, shown_opens(query.times), "time_s")
        elif name == "count":
            made[name] = Column(candles.count, form="int")
        elif name == "broker":
            made[name] = Column([chart.series[place].broker for place in chart.origin], form="text")
        elif name == "complete":
            made[name] = Column(await _complete(page), form="bool")
        elif name == "vwap":
            made[name] = Column(await _weighted(page, query), without_fraction)
        else:
            made[name] = Column(getattr(candles, name), without_fraction)
    columns = [made[name] for name in query.fields]
    if query.sort == "desc":
        columns = [attrs.evolve(column, values=column.values[::-1]) for column in columns]
    return columns


async def _complete(page: _Page) -> list[bool]:
    """Return for each candle whether it is over and neither the start of its series nor a recorded gap cuts it."""
    reader, times = page.reader, page.chart.candles.time
    if not times:
        return []
    now_s = reader.reading.services.now_us() // US_PER_S
    cuts = await reader.cuts(page.chart.series, times[0], times[-1])
    end_of = reader.timeframe.end_of
    return [
        end_of(time) <= now_s and not cuts[place].touches(time)
        for time, place in zip(times, page.chart.origin, strict=True)
    ]


async def _weighted(page: _Page, query: CandleQuery) -> list[float | None]:
    """Return the volume-weighted price of each candle, from its own source."""
    reader, times = page.reader, page.chart.candles.time
    found: dict[int, dict[int, float]] = {}
    for place in set(page.chart.origin):
        series: SeriesInfo = reader.series[place]
        own = [time for time, origin in zip(times, page.chart.origin, strict=True) if origin == place]
        price: QuotePrice = query.price if query.price in ("mid", "bid", "ask") else "mid"
        try:
            found[place] = await reader.reading.store.weighted_prices(
                series, reader.timeframe, own[0], own[-1], price
            )
        except TooManyTicks as error:
            detail = f"vwap is computed from the records, and {error.ticks} are stored in the range"
            raise Problem(
                400,
                "range_too_large",
                f"{detail}; expected at most {MAX_TICKS}: narrow the range",
                param="to",
            ) from None
    rows: list[Any] = page.chart.candles.count
    return [
        found[place].get(time) if count else None
        for time, place, count in zip(times, page.chart.origin, rows, strict=True)
    ]
