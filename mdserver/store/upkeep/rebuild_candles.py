"""Rebuild candles from rows. This is a repair: normally they are always up to date.

One transaction per week of data, so that a live writer of the same series waits only for a moment. Only what differs is
written, so the refresh of a sound database changes nothing, not even an ETag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from msgspec import Struct

from ..connection.database import Database
from ..series import SeriesInfo, list_series, lock_series
from .candle_diff import DAY_US, compare, repair, table_of

__all__ = ["Refreshed", "bounds", "refresh", "refresh_series"]

STEP_US = 7 * DAY_US

_BOUNDS = """select (extract(epoch from least(min(first), min(candle))) * 1000000)::bigint,
    (extract(epoch from greatest(max(last), max(candle))) * 1000000)::bigint,
    (select (extract(epoch from dropped_before) * 1000000)::bigint from retention where table_name = '{table}')
    from (select (select time from {table} where series_id = %(id)s order by time limit 1) as first,
                 (select time from {table} where series_id = %(id)s order by time desc limit 1) as last,
                 (select time from candles where series_id = %(id)s and timeframe = 86400 order by time limit 1)
                     as candle
          union all select null, null,
                 (select time from candles where series_id = %(id)s and timeframe = 86400 order by time desc limit 1)
    ) as ends"""

_FORGET_SIDES = """delete from side_hours where series_id = %s
    and time >= 'epoch'::timestamptz + %s * interval '1 microsecond'
    and time < 'epoch'::timestamptz + %s * interval '1 microsecond'"""

_CORRECT = """update series set row_count = real.n, earliest = real.first, latest = real.last, hist_v = hist_v + 1
    from (select count(*) as n, min(time) as first, max(time) as last from {table} where series_id = %(id)s) as real
    where id = %(id)s and (row_count, earliest, latest) is distinct from (real.n, real.first, real.last)"""


class Refreshed(Struct, frozen=True):
    """What a refresh of one series did: days compared, candles corrected, whether its counts were corrected."""

    broker: str
    symbol: str
    type: str
    days: int
    candles: int
    metadata: bool


async def refresh(
    database: Database,
    symbol: str | None = None,
    first_us: int | None = None,
    end_us: int | None = None,
    *,
    announce: Callable[[SeriesInfo], None] = lambda series: None,
) -> list[Refreshed]:
    """Rebuild the candles of all series, or of one symbol, that open in ``[first_us, end_us)``, whole days.

    Without bounds the counts in ``series`` are corrected too. ``announce`` is called before each series.
    """
    results = []
    for series in await database.run(lambda conn: list_series(conn, symbol)):
        announce(series)
        results.append(await refresh_series(database, series, first_us, end_us))
    return results


async def refresh_series(
    database: Database, series: SeriesInfo, first_us: int | None = None, end_us: int | None = None
) -> Refreshed:
    """Rebuild the candles of one series; see :func:`refresh`."""
    all_of_it = first_us is None and end_us is None
    found = await database.run(lambda conn: bounds(conn, series))
    days = changed = 0
    if found is not None:
        begin = max(found[0], found[0] if first_us is None else first_us) // DAY_US * DAY_US
        end = min(found[1], found[1] if end_us is None else end_us)
        for start in range(begin, end, STEP_US):
            stop = min(start + STEP_US, -(-end // DAY_US) * DAY_US)
            changed += await database.run(lambda conn, at=(start, stop): _step(conn, series, *at))  # type: ignore[misc]
            days += (stop - start) // DAY_US
    metadata = await database.run(lambda conn: _correct(conn, series)) if all_of_it else False
    return Refreshed(series.broker, series.symbol, series.type, days, changed, metadata)


def bounds(conn: psycopg.Connection[Any], series: SeriesInfo) -> tuple[int, int] | None:
    """Return the start of the first day with rows or candles and the end of the last, after what retention dropped."""
    statement = _BOUNDS.format(table=table_of(series.type))
    row = conn.execute(statement.encode(), {"id": series.id}).fetchone()
    if row is None or row[0] is None:
        return None
    first_us, last_us, dropped_before_us = row
    first_us = max(first_us, dropped_before_us or first_us)
    if last_us < first_us:
        return None
    return first_us // DAY_US * DAY_US, last_us // DAY_US * DAY_US + DAY_US


def _step(conn: psycopg.Connection[Any], series: SeriesInfo, first_us: int, end_us: int) -> int:
    conn.execute("set local statement_timeout = 0")
    lock_series(conn, {series.topic})
    changed = repair(conn, series.id, compare(conn, table_of(series.type), series.id, first_us, end_us))
    # whoever put rows in beside us may have left the mid candle, by whose version these count, as it was
    kept = conn.execute(_FORGET_SIDES, [series.id, first_us, end_us]).rowcount
    if changed or kept:
        conn.execute("update series set hist_v = hist_v + 1 where id = %s", [series.id])
    return changed


def _correct(conn: psycopg.Connection[Any], series: SeriesInfo) -> bool:
    """Correct the counts in ``series``. It is locked meanwhile, so that they are still right at the commit."""
    conn.execute("set local statement_timeout = 0")
    lock_series(conn, {series.topic})
    statement = _CORRECT.format(table=table_of(series.type))
    return conn.execute(statement.encode(), {"id": series.id}).rowcount > 0
