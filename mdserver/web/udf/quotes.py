"""``/udf/quotes``: the newest price of each symbol, with the day that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..api.chart import ChartReader
from ..api.encoding import without_fraction
from ..api.params import check_count, required
from ..api.problem import Problem
from ..api.read_context import Reading
from .resolution import timeframe_of
from .symbols import Named, named_by, resolve

__all__ = ["QUERY", "quotes_document"]

QUERY = ("symbols",)


async def quotes_document(query: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    """Return a quote, or an error, for each of the symbols."""
    text = required(query, "symbols", "symbols separated by commas, like EURUSD,BTCUSDT")
    names = [name for name in dict.fromkeys(text.split(",")) if name]
    check_count(len(names))
    return {"s": "ok", "d": [await _entry(name, reading) for name in names]}


async def _entry(name: str, reading: Reading) -> dict[str, Any]:
    try:
        values = await _quote(await named_by(await resolve(name, reading), reading), reading)
    except Problem as problem:
        if problem.status >= 500:
            raise
        return {"s": "error", "n": name, "v": {}, "errmsg": problem.detail}
    if values is None:
        return {"s": "error", "n": name, "v": {}, "errmsg": f"nothing is stored of {name} yet"}
    return {"s": "ok", "n": name, "v": values}


async def _quote(asked: Named, reading: Reading) -> dict[str, Any] | None:
    instrument = asked.instrument
    reader = ChartReader(reading, asked.candidates, timeframe_of("1D", instrument.align), None)
    bounds = await reader.bounds_s()
    if bounds is None:
        return None
    days, _, _ = await reader.read_some(*bounds, 2, newest=True)
    if not len(days):
        return None
    candles = days.candles
    last = candles.close[-1]
    before = candles.close[-2] if len(days) > 1 else None
    values: dict[str, Any] = {
        "short_name": instrument.symbol,
        "exchange": asked.exchange,
        "description": instrument.display,
        "lp": last,
        "open_price": candles.open[-1],
        "high_price": candles.high[-1],
        "low_price": candles.low[-1],
        "volume": candles.volume[-1],
        **(await _sides(days.series[days.origin[-1]].id, asked, reading)),
    }
    if before:
        values["prev_close_price"] = before
        values["ch"] = round(last - before, instrument.digits + 1)
        values["chp"] = round(100 * (last - before) / before, 2)
    return {
        name: without_fraction([one])[0] if isinstance(one, float) else one for name, one in values.items()
    }


async def _sides(series_id: int, asked: Named, reading: Reading) -> dict[str, float]:
    """Return bid, ask and spread of the newest tick of the source that the last price is from, if it has ticks."""
    source = next(one.broker for one in asked.candidates if one.id == series_id)
    ticks = [one for one in asked.instrument.series if one.type == "tick" and one.broker == source]
    if not ticks:
        return {}
    newest = await reading.store.newest_record(ticks[0])
    if not newest.seq:
        return {}
    bid, ask = newest.columns["bid"][0], newest.columns["ask"][0]
    return {"bid": bid, "ask": ask, "spread": round(ask - bid, asked.instrument.digits)}
