"""Volume-weighted prices of candles: computed from the stored records on request, since no candle holds them.

The sum of price times size is one of floats, as everybody computes it; the price is rounded to 12 digits, so that the
order of the sums does not show.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import psycopg

from ...candles import FRACTIONS, QuotePrice
from ...model import US_PER_S
from ...timeframes import Timeframe
from ..rows import Table
from ..scan import scan
from .bid_ask_candles import TooManyTicks
from .read_candles import utc_time

__all__ = ["weighted_prices"]

_DIGITS = 12

_COUNT = """select coalesce(sum(row_count), 0)::bigint from candles
    where series_id = %s and timeframe = %s and time between %s and %s"""


_KEPT_FROM = """select ceil(extract(epoch from dropped_before))::bigint from retention
    where table_name = %s"""


def weighted_prices(
    conn: psycopg.Connection[Any],
    table: str,
    series_id: int,
    timeframe: Timeframe,
    from_s: int,
    to_s: int,
    price: QuotePrice,
    *,
    most: int,
) -> dict[int, float]:
    """Return the volume-weighted price of each candle with volume whose open is in ``[from_s, to_s]``, by its open.

    Raises :class:`.TooManyTicks` if more than ``most`` records have to be read. Blocking.
    """
    dropped = conn.execute(_KEPT_FROM, [table]).fetchone()
    if dropped is not None:  # the rest of a candle's records would make a wrong price
        from_s = max(from_s, timeframe.first_from(int(dropped[0])))
    if from_s > to_s:
        return {}
    end_s = timeframe.end_of(to_s)
    source_s = timeframe.source_s
    parameters = (series_id, source_s, utc_time(from_s), utc_time(end_s - source_s))
    row = conn.execute(_COUNT, parameters).fetchone()
    if row is not None and row[0] > most:
        raise TooManyTicks(int(row[0]))
    spent: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for block in scan(conn, cast("Table", table), series_id, from_s * US_PER_S, end_s * US_PER_S, price):
        opens, place = np.unique(timeframe.opens_of(block.time_us // US_PER_S), return_inverse=True)
        size = block.prices.whole + block.prices.fraction / FRACTIONS
        turnover = np.bincount(place, block.prices.price * size).tolist()
        volume = np.bincount(place, size).tolist()
        for time, money, units in zip(opens.tolist(), turnover, volume, strict=True):
            spent[time] = spent.get(time, 0.0) + money
            sizes[time] = sizes.get(time, 0.0) + units
    return {time: float(f"{spent[time] / size:.{_DIGITS}g}") for time, size in sizes.items() if size > 0}
