"""Bid and ask candles: not stored, but computed from the ticks on request.

The arithmetic is that of the mid candles (:mod:`mdserver.candles`). A bucket that opens before the time up to which
retention has dropped ticks is left out: the rest of its ticks would make a wrong candle.
"""

from __future__ import annotations

from typing import Any

import psycopg

from ...candles import FRACTIONS, Candles, QuotePrice, fold, merge
from ...model import US_PER_S
from ..scan import candles_of, scan
from .read_candles import CandleColumns, utc_time

__all__ = ["count_ticks", "side_candles"]

_COUNT = """select coalesce(sum(row_count), 0)::bigint from candles
    where series_id = %s and timeframe = %s and time between %s and %s
      and time >= coalesce((select dropped_before from retention where table_name = 'ticks'), '-infinity')"""

_KEPT_FROM = """select ceil(extract(epoch from dropped_before))::bigint from retention
    where table_name = 'ticks'"""


def count_ticks(
    conn: psycopg.Connection[Any], series_id: int, timeframe_s: int, from_s: int, to_s: int
) -> int:
    """Return how many ticks :func:`side_candles` would read, from the counts of the mid candles. Blocking."""
    parameters = (series_id, timeframe_s, utc_time(from_s), utc_time(to_s))
    row = conn.execute(_COUNT, parameters).fetchone()
    return 0 if row is None else int(row[0])


def side_candles(
    conn: psycopg.Connection[Any],
    series_id: int,
    timeframe_s: int,
    from_s: int,
    to_s: int,
    side: QuotePrice,
) -> CandleColumns:
    """Return the candles of one side of a series' ticks whose opens are in ``[from_s, to_s]``.

    Both bounds are multiples of ``timeframe_s``. Blocking. Memory is bounded by a block of ticks and the candles.
    """
    kept = conn.execute(_KEPT_FROM).fetchone()
    first_s = from_s if kept is None else max(from_s, -(-kept[0] // timeframe_s) * timeframe_s)
    if first_s > to_s:
        return CandleColumns()
    end_us = (to_s + timeframe_s) * US_PER_S
    parts = [
        fold(candles_of(block), timeframe_s)
        for block in scan(conn, "ticks", series_id, first_s * US_PER_S, end_us, side)
    ]
    return _columns(merge(parts, timeframe_s)) if parts else CandleColumns()


def _columns(table: Candles) -> CandleColumns:
    # one division of ints rounds once, like PostgreSQL's conversion from numeric to double
    volume = [
        (whole * FRACTIONS + fraction) / FRACTIONS
        for whole, fraction in zip(table.whole.tolist(), table.fraction.tolist(), strict=True)
    ]
    return CandleColumns(
        time=table.time.tolist(),
        open=table.open.tolist(),
        high=table.high.tolist(),
        low=table.low.tolist(),
        close=table.close.tolist(),
        volume=volume,
        count=table.row_count.tolist(),
    )
