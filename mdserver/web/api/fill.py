"""``fill``: a candle for each bucket without records, where it is known that there were none.

It is not known over closed hours, in a recorded gap, before the first and behind the last record. When the market of an
instrument was open follows from its symbol only roughly, so apart from crypto currencies, which always trade, an hour
counts as open only if a record of it is stored: the daily pause of metals, a holiday and an outage are never filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...market_hours import market_of
from ...model import US_PER_S
from ...store.store import CandleColumns
from .candle_query import Fill
from .chart import COLUMNS, Chart, ChartReader

__all__ = ["filled"]

HOUR_S = 3_600

_Last: TypeAlias = tuple[float, int]
"""A close, and the place of the series that it is from."""


async def filled(reader: ChartReader, chart: Chart, first_s: int, last_s: int, fill: Fill) -> Chart:
    """Return the candles of ``[first_s, last_s]``, which was read, with those that are missing."""
    bounds = await reader.bounds_s()
    if bounds is None:
        return chart
    first_s, last_s = max(first_s, bounds[0]), min(last_s, bounds[1])
    have = np.array(chart.candles.time, np.int64)
    missing = np.setdiff1d(reader.timeframe.opens(first_s, last_s), have, assume_unique=True).tolist()
    if not missing:
        return chart
    before = None
    if fill == "previous" and (not len(have) or missing[0] < have[0]):
        before, _, _ = await reader.read_some(
            bounds[0], reader.timeframe.open_of(first_s - 1), 1, newest=True
        )
    begin_s = before.candles.time[-1] if before else first_s
    cuts = await reader.cuts(reader.series, begin_s, last_s)
    end_of = reader.timeframe.end_of

    def in_gap(from_s: int, to_s: int) -> bool:
        return any(cut.in_gap(from_s * US_PER_S, to_s * US_PER_S) for cut in cuts)

    last: _Last | None = None
    if before and not in_gap(begin_s, first_s):
        last = before.candles.close[-1], before.origin[-1]
    open_hours = await _open_hours(reader, first_s, end_of(last_s))

    def empty(time: int) -> bool | None:
        """Whether a bucket certainly had no record; None: one may be missing."""
        return None if in_gap(time, end_of(time)) else open_hours(time, end_of(time))

    return _merged(chart, missing, fill, last, empty)


def _merged(
    chart: Chart, missing: Sequence[int], fill: Fill, last: _Last | None, empty: Callable[[int], bool | None]
) -> Chart:
    """Put candles in the places that are empty; ``last`` is the close that holds on at the beginning."""
    there = dict(zip(chart.candles.time, range(len(chart)), strict=True))
    rows: list[tuple[Any, ...]] = []
    for time in sorted([*there, *missing]):
        row = there.get(time)
        if row is not None:
            rows.append((time, *(getattr(chart.candles, name)[row] for name in COLUMNS), chart.origin[row]))
            last = chart.candles.close[row], chart.origin[row]
        elif (is_empty := empty(time)) is None:
            last = None  # nobody knows the price behind it
        elif is_empty and fill == "null":
            rows.append((time, *(None for _ in COLUMNS), 0 if last is None else last[1]))
        elif is_empty and last is not None:
            close, place = last
            rows.append((time, close, close, close, close, 0.0, 0, place))
    if not rows:
        return chart
    *columns, origin = map(list, zip(*rows, strict=True))
    return Chart(CandleColumns(**dict(zip(("time", *COLUMNS), columns, strict=True))), origin, chart.series)


async def _open_hours(reader: ChartReader, first_s: int, end_s: int) -> Callable[[int, int], bool]:
    """Return what tells whether the market was certainly open from one time to another."""
    if all(market_of(one.symbol, one.type) == "crypto" for one in reader.series):
        return lambda from_s, to_s: True
    hours: set[int] = set()
    for one in reader.series:
        hours.update(
            (await reader.reading.store.candles(one.id, HOUR_S, first_s - first_s % HOUR_S, end_s)).time
        )
    return lambda from_s, to_s: all(hour in hours for hour in range(from_s - from_s % HOUR_S, to_s, HOUR_S))
