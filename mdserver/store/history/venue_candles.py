"""Candles that came from the venue where its records cannot be had: kept apart, and folded into the coarser ones.

A minute that has rows of its own stays what those make it: nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import numpy as np
import psycopg

from ...candles import Candles
from ...model import TIMEFRAMES, US_PER_S, Candle, Topic
from ..candle_table import put_candles
from ..pg_binary import Float8Array, Int8Array, TimeArray, to_postgres_us
from ..recompute_candles import recompute_coarser
from ..series import lock_series

__all__ = ["FINEST", "add_candles", "read_candles_of_venue"]

FINEST = min(TIMEFRAMES, key=lambda name: TIMEFRAMES[name])
"""The interval of the candles that are taken."""

_ADD: LiteralString = """insert into venue_candles (series_id, time, open, high, low, close, row_count)
    select %s, new.time, new.open, new.high, new.low, new.close, new.row_count
    from unnest(%s, %s, %s, %s, %s, %s) as new(time, open, high, low, close, row_count)
    where not exists (select from candles known
        where known.series_id = %s and known.timeframe = %s and known.time = new.time)
    on conflict do nothing returning (extract(epoch from time))::bigint"""

_READ: LiteralString = """select (extract(epoch from time))::bigint, open, high, low, close, row_count
    from venue_candles where series_id = %s and time >= (%s)[1] and time < (%s)[1] order by time"""

_BUMP = "update series set hist_v = hist_v + 1 where id = %s"


def add_candles(conn: psycopg.Connection[Any], topic: Topic, candles: Sequence[Candle]) -> list[int]:
    """Store candles of the interval :data:`FINEST`, each once; return the opens of the new ones, in microseconds.

    Their volume is unknown, so it counts as 0. Blocking; runs inside the caller's transaction.
    """
    if not candles:
        return []
    series = lock_series(conn, {topic})[topic]
    finest_s = TIMEFRAMES[FINEST]
    by_open = {candle.time_us // US_PER_S: candle for candle in candles}
    opens = np.array(sorted(by_open), np.int64)
    prices = [
        [getattr(by_open[at], side) for at in opens.tolist()] for side in ("open", "high", "low", "close")
    ]
    counts = np.array([by_open[at].count for at in opens.tolist()], np.int64)
    added = conn.execute(
        _ADD,
        (
            series.id,
            TimeArray.of(to_postgres_us(opens * US_PER_S)),
            *(Float8Array.of(np.array(column, np.float64)) for column in prices),
            Int8Array.of(counts),
            series.id,
            finest_s,
        ),
    ).fetchall()
    if not added:
        return []
    new = np.array(sorted(open_s for (open_s,) in added), np.int64)
    chosen = [by_open[at] for at in new.tolist()]
    put_candles(conn, series.id, {finest_s: _columns(chosen)}, "replace")
    recompute_coarser(conn, np.full(len(new), series.id, np.int64), new * US_PER_S, finest_s)
    conn.execute(_BUMP, [series.id])
    return [int(at) * US_PER_S for at in new.tolist()]


def read_candles_of_venue(
    conn: psycopg.Connection[Any], series_id: int, first_us: int, end_us: int
) -> Candles | None:
    """Return the candles of the venue that a series has in ``[first_us, end_us)``; None where it has none. Blocking."""
    bounds = TimeArray.of(to_postgres_us([first_us])), TimeArray.of(to_postgres_us([end_us]))
    rows = conn.execute(_READ, (series_id, *bounds)).fetchall()
    if not rows:
        return None
    opens, first, high, low, last, counts = zip(*rows, strict=True)
    return _made(opens, (first, high, low, last), counts)


def _columns(candles: Sequence[Candle]) -> Candles:
    prices = tuple([getattr(c, side) for c in candles] for side in ("open", "high", "low", "close"))
    return _made([c.time_us // US_PER_S for c in candles], prices, [c.count for c in candles])


def _made(opens: Sequence[int], prices: Sequence[Sequence[float]], counts: Sequence[int]) -> Candles:
    none = np.zeros(len(opens), np.int64)
    first, high, low, last = (np.array(column, np.float64) for column in prices)
    return Candles(
        none, np.array(opens, np.int64), first, high, low, last, none, none, np.array(counts, np.int64)
    )
