"""Read candles as columns: PostgreSQL builds one array per column and sends it in binary.

That is the cheapest way: no object per row on either side. Pages of ticks: :mod:`mdserver.store.query.read_records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from msgspec import Struct

from ...stream.live_candles import CandleKey, StoredCandle

__all__ = ["CandleColumns", "candle_days", "candles", "candles_at", "utc_time"]


class CandleColumns(Struct):
    """Candles, one list per column: ``time`` is the open in seconds, ``count`` the number of ticks or trades."""

    time: list[int] = []
    open: list[float] = []
    high: list[float] = []
    low: list[float] = []
    close: list[float] = []
    volume: list[float] = []
    count: list[int] = []


_CANDLES = """select array_agg(extract(epoch from time)::bigint), array_agg(open), array_agg(high), array_agg(low),
    array_agg(close), array_agg(volume::double precision), array_agg(row_count)
from (select * from candles
      where series_id = %s and timeframe = %s and time between %s and %s
      order by time) as chosen"""


def candles(
    conn: psycopg.Connection[Any], series_id: int, timeframe_s: int, from_s: int, to_s: int
) -> CandleColumns:
    """Return the candles of a series whose opens are in ``[from_s, to_s]``, ascending. Blocking."""
    with conn.cursor(binary=True) as cursor:
        parameters = (series_id, timeframe_s, utc_time(from_s), utc_time(to_s))
        row = cursor.execute(_CANDLES, parameters, prepare=True).fetchone()
    return CandleColumns() if row is None or row[0] is None else CandleColumns(*row)


_DAYS = """select extract(epoch from min(first))::bigint, extract(epoch from max(last))::bigint
from unnest(%s::int[]) as one(id)
cross join lateral (select min(time) as first, max(time) as last from candles
                    where series_id = one.id and timeframe = 86400) as days"""


def candle_days(conn: psycopg.Connection[Any], series_ids: Sequence[int]) -> tuple[int, int] | None:
    """Return the first and the last day with a candle of one of these series, None if there is none. Blocking."""
    row = conn.execute(_DAYS, [list(series_ids)], prepare=True).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))


_CANDLES_AT = """select wanted.place, c.open, c.high, c.low, c.close, c.volume::double precision, c.row_count
from unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[]) with ordinality
    as wanted(broker, symbol, type, timeframe, open_s, place)
join series s on (s.broker, s.symbol, s.type, s.variant) = (wanted.broker, wanted.symbol, wanted.type, '')
join candles c on c.series_id = s.id and c.timeframe = wanted.timeframe and c.time = to_timestamp(wanted.open_s)"""


def candles_at(conn: psycopg.Connection[Any], keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
    """Return those of these candles that exist. Blocking."""
    with conn.cursor(binary=True) as cursor:
        columns = [list(column) for column in zip(*keys, strict=True)]
        rows = cursor.execute(_CANDLES_AT, columns, prepare=True).fetchall() if keys else []
    return {keys[place - 1]: StoredCandle(*values) for place, *values in rows}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_S = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)


def utc_time(time_s: int) -> datetime:
    """Return a time as datetime, clipped to its range: nothing is stored outside of it."""
    return _EPOCH + timedelta(seconds=max(0, min(time_s, _LAST_S)))
