"""Recompute candles in SQL from stored rows, where merging would be wrong.

A record older than what its series already holds may change the open or the close of a candle. So the minutes that
it touches are recomputed from the stored rows, and the coarser candles from the finer ones. The arithmetic is that
of :mod:`mdserver.candles`, bit for bit: the same float operations, sizes split into whole and 1e-8 parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

from ..candles import MID_SCALE_ABOVE, MID_SCALES, Ints
from ..model import TIMEFRAMES, US_PER_S
from .candle_table import REPLACE
from .pg_binary import Int4Array, TimeArray, to_postgres_us
from .rows import Table

__all__ = ["recompute", "recompute_coarser"]


def _mid() -> str:
    """:func:`mdserver.candles.mid` in SQL."""
    middle = "(bid + ask) / 2"
    cases = " ".join(
        f"when {middle} < {bound!r}::float8 then round({middle} * {by!r}::float8) / {by!r}::float8"
        for bound, by in MID_SCALES
    )
    above = f"{MID_SCALE_ABOVE!r}::float8"
    return f"case {cases} else round({middle} * {above}) / {above} end"


_PRICE = {"ticks": _mid(), "trades": "price"}

_SIZES = {"ticks": ("bid_size", "ask_size"), "trades": ("size",)}


def _volume(table: Table) -> str:
    """The exact sum of the sizes: a cast to numeric would keep 15 digits of each only."""
    return " + ".join(
        f"coalesce(sum(floor({size})::bigint), 0)"
        f" + coalesce(sum(((({size} - floor({size})) * 1e8))::bigint), 0) * 0.00000001"
        for size in _SIZES[table]
    )


def _minutes_from(table: Table) -> str:
    minute = f"""from {table} as stored
        where stored.series_id = touched.series_id
          and stored.time >= touched.time and stored.time < touched.time + interval '60 seconds'"""
    return f"""insert into candles (series_id, timeframe, time, open, high, low, close, volume, row_count)
    select touched.series_id, 60, touched.time, first.price, made.high, made.low, last.price, made.volume, made.n
    from unnest(%s, %s) as touched(series_id, time)
    cross join lateral (
        select max({_PRICE[table]}) as high, min({_PRICE[table]}) as low, {_volume(table)} as volume, count(*) as n
        {minute}) as made
    cross join lateral (select {_PRICE[table]} as price {minute} order by time, seq limit 1) as first
    cross join lateral (select {_PRICE[table]} as price {minute} order by time desc, seq desc limit 1) as last
    where touched.time >= coalesce(
        (select dropped_before from retention where table_name = '{table}'), '-infinity')
    {REPLACE}"""  # noqa: S608 - names from this module only


_MINUTES: dict[str, str] = {"ticks": _minutes_from("ticks"), "trades": _minutes_from("trades")}

_COARSER = f"""insert into candles (series_id, timeframe, time, open, high, low, close, volume, row_count)
    select touched.series_id, %(timeframe)s, touched.time, made.opens[1], made.high, made.low, made.closes[made.n],
           made.volume, made.row_count
    from unnest(%(series_id)s, %(time)s) as touched(series_id, time)
    cross join lateral (
        select array_agg(open order by time) as opens, max(high) as high, min(low) as low,
               array_agg(close order by time) as closes, sum(volume) as volume,
               sum(row_count)::bigint as row_count, count(*) as n
        from candles as finer
        where finer.series_id = touched.series_id and finer.timeframe = %(finer)s
          and finer.time >= touched.time and finer.time < touched.time + make_interval(secs => %(timeframe)s)
    ) as made
    where made.n > 0
    {REPLACE}"""  # noqa: S608 - names from this module only


def recompute(conn: psycopg.Connection[Any], table: str, series_id: Ints, time_us: Ints) -> None:
    """Recompute the candles, in every timeframe, that rows of these series at these times belong to.

    Candles whose rows retention has dropped stay as they are: a row that arrives late is only a part of theirs.
    """
    finest = min(TIMEFRAMES.values())
    conn.execute(_MINUTES[table], _buckets(series_id, time_us, finest), prepare=True)
    recompute_coarser(conn, series_id, time_us, finest)


def recompute_coarser(conn: psycopg.Connection[Any], series_id: Ints, time_us: Ints, finer: int) -> None:
    """Recompute the candles at these times in every timeframe above ``finer`` seconds, each from the next finer one."""
    for timeframe_s in sorted(seconds for seconds in TIMEFRAMES.values() if seconds > finer):
        ids, opens = _buckets(series_id, time_us, timeframe_s)
        conn.execute(
            _COARSER,
            {"timeframe": timeframe_s, "finer": finer, "series_id": ids, "time": opens},
            prepare=True,
        )
        finer = timeframe_s


def _buckets(series_id: Ints, time_us: Ints, timeframe_s: int) -> tuple[Int4Array, TimeArray]:
    length_us = timeframe_s * US_PER_S
    unique = np.unique(np.column_stack((series_id, time_us // length_us * length_us)), axis=0)
    return Int4Array.of(unique[:, 0]), TimeArray.of(to_postgres_us(unique[:, 1]))
