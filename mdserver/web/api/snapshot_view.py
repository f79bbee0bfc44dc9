"""``GET /api/snapshot``: what some symbols are at now: last records, forming candles, the change of the day."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from quart import Request, Response

from ...kinds import BY_NAME
from ...model import TIMEFRAMES, US_PER_S, Published, RecordType
from ...protocol.encoding import encoding, wire_of
from ...protocol.times import TIMES, Times
from ...store.store import SeriesInfo
from ...stream.live_candles import CandleKey, StoredCandle
from .caching import REVALIDATE
from .conditional import answer, small_body
from .encoding import Body
from .params import listed_symbols, query_of, times_of
from .problem import missing_parameter
from .read_context import Reading
from .series_choice import candidates_of, types_there

__all__ = ["QUERY", "snapshot_answer"]

QUERY = ("symbols", "broker", "times")
SHOWN = ("1m", "1d")
AT_ONE_TIME = 1_000
"""Records of one microsecond that are looked at for the last of them."""


async def snapshot_answer(request: Request, reading: Reading) -> Response:
    """Answer with the snapshot of each requested symbol, by its canonical name. Raises Problem for an unknown one."""

    async def build() -> Body:
        return small_body(msgspec.json.encode(await _document(request, reading)))

    headers = {"Cache-Control": REVALIDATE}
    return await answer(request, build, form="json", headers=headers, memory=reading.memory)


async def _document(request: Request, reading: Reading) -> dict[str, Any]:
    query = query_of(request.args.items(multi=True), QUERY)
    sources, times = reading.services.sources(), times_of(query)
    chosen: dict[str, dict[RecordType | None, SeriesInfo]] = {}
    broker = query.get("broker")
    for symbol in _symbols_of(query.get("symbols")):
        known = await reading.series_of(symbol)
        chosen[symbol] = {
            wanted: candidates_of(known, sources, symbol, broker=broker, wanted=wanted, param=None)[0]
            for wanted in (None, *types_there(known, sources, symbol, broker))
        }
    now_s = reading.services.now_us() // US_PER_S
    keys = {
        (symbol, name): _key(series[None], TIMEFRAMES[name], now_s)
        for symbol, series in chosen.items()
        for name in SHOWN
    }
    candles = await reading.store.candles_at(list(keys.values()))
    return {
        symbol: {
            "broker": series[None].broker,
            "tick": await _last(reading, series.get("tick"), times),
            "trade": await _last(reading, series.get("trade"), times),
            "candles": {
                name: _shown(keys[symbol, name], candles.get(keys[symbol, name]), times) for name in SHOWN
            },
            **_change(candles.get(keys[symbol, "1d"])),
        }
        for symbol, series in chosen.items()
    }


def _symbols_of(text: str | None) -> Sequence[str]:
    if text is None:
        raise missing_parameter("symbols", "one or more symbols, like EURUSD,BTCUSDT")
    return listed_symbols(text)


def _key(series: SeriesInfo, timeframe_s: int, now_s: int) -> CandleKey:
    return CandleKey(
        series.broker, series.symbol, series.type, timeframe_s, now_s // timeframe_s * timeframe_s
    )


async def _last(reading: Reading, series: SeriesInfo | None, times: Times) -> dict[str, Any] | None:
    """Return the last record of a series as the stream has it: one that was just published, else the last stored."""
    if series is None:
        return None
    published = reading.services.last(series.topic) or await _last_stored(reading, series)
    if published is None:
        return None
    shown: dict[str, Any] = msgspec.json.decode(encoding(wire_of("json", times)).payload(published))
    return shown


async def _last_stored(reading: Reading, series: SeriesInfo) -> Published | None:
    at_us = series.latest_us
    if at_us is None:
        return None
    page = await reading.store.records(series.id, series.type, at_us, at_us, after=None, limit=AT_ONE_TIME)
    if not page.seq:
        return None  # deleted since the series was read
    values = {name: column[-1] for name, column in page.columns.items()}
    record = BY_NAME[series.type].struct(symbol=series.symbol, time_us=at_us, **values)
    return Published(series.topic, page.seq[-1], record)  # type: ignore[arg-type]  # a struct of the kinds' table


def _shown(key: CandleKey, candle: StoredCandle | None, times: Times) -> dict[str, Any] | None:
    if candle is None:
        return None
    prices: Sequence[float] = candle[:5]
    values = dict(zip(("open", "high", "low", "close", "volume"), prices, strict=True))
    return {"time": TIMES[times](key.open_s * US_PER_S), **values, "count": candle.row_count}


def _change(day: StoredCandle | None) -> dict[str, float | None]:
    """Return how far the price is from the day's open: with no digit that the two prices do not have."""
    if day is None or not day.open:
        return {"change": None, "change_percent": None}
    change = Decimal(repr(day.close)) - Decimal(repr(day.open))
    return {"change": float(change), "change_percent": round(100 * float(change) / day.open, 4)}
