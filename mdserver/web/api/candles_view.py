"""``GET /api/candles``: one symbol, one timeframe, a range; from one source, or joined from all with the symbol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import trio
from quart import Request, Response

from ...store.store import CandleColumns, SeriesInfo, Store
from .bucket_choice import Buckets, Chosen, choose_buckets
from .caching import version_key
from .candle_query import QUERY, CandleQuery
from .conditional import answer, format_of
from .encoding import Body, CandleRow, Column, Format, build_body, without_fraction
from .params import query_of
from .problem import Problem
from .read_context import Reading, series_headers
from .series_choice import candidates_of, default_price

__all__ = ["MAX_TICKS", "candles_answer"]

LARGE_CANDLES = 50_000
"""Only ``LARGE_AT_ONCE`` answers with more candles are made at the same time."""

MAX_TICKS = 5_000_000
"""How many ticks one request for bid or ask candles may read: some seconds of work."""

_JOIN_INLINE = 5_000
"""Up to so many candles of several sources are joined in the event loop, in some milliseconds; more in a thread."""

_NUMBERS = ("open", "high", "low", "close", "volume")


@attrs.frozen
class _Answering:
    """Candles, and the series that they are from."""

    candles: CandleColumns
    series: Sequence[SeriesInfo]


async def candles_answer(
    request: Request, reading: Reading, path: Iterable[tuple[str, str]] = ()
) -> Response:
    """Answer a request for candles; ``path`` has the parameters that are in the path of the URL."""
    in_path = dict(path)
    known = [name for name in QUERY if name not in in_path]
    parameters = in_path | query_of(request.args.items(multi=True), known)
    query, form = CandleQuery.parse(parameters), format_of(request, parameters)
    series = candidates_of(
        await reading.series_of(query.symbol),
        reading.services.sources(),
        query.symbol,
        broker=query.broker,
        wanted=query.record_type,
    )

    control = await reading.cache_control(
        series,
        query.span,
        until_us=query.span.last_us + query.span.bucket_us - 1,
        named=query.broker is not None,
    )

    async def build() -> Body:
        if query.span.buckets > LARGE_CANDLES or query.price in {"bid", "ask"}:
            async with reading.large:
                return await _body(reading, await _answering(reading, query, series), query, form)
        return await _body(reading, await _answering(reading, query, series), query, form)

    return await answer(
        request,
        build,
        form=form,
        headers={
            "Cache-Control": control,
            **series_headers(series),
        },
        memory=reading.memory,
        key=("candles", query.price, form, *(version_key(one, query.span) for one in series)),
    )


async def _answering(reading: Reading, query: CandleQuery, series: Sequence[SeriesInfo]) -> _Answering:
    """Return the candles of the range, each bucket from the source that :mod:`.bucket_choice` chooses."""
    found = [(one, await _read(reading.store, one, query)) for one in series]
    having = [(one, candles) for one, candles in found if candles.time]
    if not having:
        return _Answering(CandleColumns(), series[:1])
    if len(having) == 1:
        (one, candles) = having[0]
        return _Answering(candles, [one])
    opens_s = query.opens_s
    sources = [
        Buckets(candles.time, one.earliest_us, await reading.gaps(one, *opens_s)) for one, candles in having
    ]
    columns = [candles for _, candles in having]

    def join() -> tuple[CandleColumns, set[int]]:
        chosen = choose_buckets(sources, query.timeframe_s)
        return _gathered(columns, chosen), {one.source for one in chosen}

    if sum(len(candles.time) for candles in columns) <= _JOIN_INLINE:
        candles, used = join()
    else:  # it touches nothing shared, so a cancelled request need not wait for it
        candles, used = await trio.to_thread.run_sync(join, abandon_on_cancel=True)
    return _Answering(candles, [having[place][0] for place in sorted(used)])


def _gathered(columns: Sequence[CandleColumns], chosen: Sequence[Chosen]) -> CandleColumns:
    values = {
        name: [getattr(columns[one.source], name)[one.row] for one in chosen] for name in ("time", *_NUMBERS)
    }
    return CandleColumns(**values)


async def _read(store: Store, series: SeriesInfo, query: CandleQuery) -> CandleColumns:
    """Return the candles of one series."""
    if query.span.is_empty:
        return CandleColumns()
    price, opens = query.price, query.opens_s
    if price != "bid" and price != "ask":
        return await store.candles(series.id, query.timeframe_s, *opens)
    ticks = await store.count_ticks(series.id, query.timeframe_s, *opens)
    if ticks > MAX_TICKS:
        detail = f"{price} candles are computed from the ticks, and {ticks} are stored from `from` to `to`"
        raise Problem(
            400, "range_too_large", f"{detail}; expected at most {MAX_TICKS}: narrow the range", param="to"
        )
    return await store.side_candles(series.id, query.timeframe_s, *opens, price)


async def _body(reading: Reading, answering: _Answering, query: CandleQuery, form: Format) -> Body:
    candles = answering.candles
    numbers = [Column(getattr(candles, name), without_fraction) for name in _NUMBERS]
    body = await build_body(CandleRow, [Column(candles.time), *numbers], form, turn=reading.encoding)
    prices = dict.fromkeys(query.price or default_price(one) for one in answering.series)
    sources = dict.fromkeys(one.broker for one in answering.series)
    return attrs.evolve(body, headers={"X-Broker": ", ".join(sources), "X-Price": ", ".join(prices)})
