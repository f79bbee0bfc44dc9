"""The days of a series: which there are, and a mark of each that changes when its records do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ...kinds import BY_NAME
from ...model import ImportedHour, StoredDay
from ..scan import timestamp
from ..series import SeriesInfo

__all__ = ["day_marks", "imported_hours", "list_days"]

# Each record has its candle, so the 1d candles list the days. An hour of the ledger without ticks has none.
_DAYS: LiteralString = """select coalesce(made.day, taken.day), coalesce(made.row_count, 0),
        coalesce(made.day, taken.day) < coalesce(
            (select dropped_before from retention where table_name = %(table)s), '-infinity')
    from (select (time at time zone 'UTC')::date as day, row_count from candles
          where series_id = %(series)s and timeframe = 86400) made
    full join (select distinct (hour at time zone 'UTC')::date as day from import_ledger
               where series_id = %(series)s and outcome in ('ok', 'empty')) taken on taken.day = made.day
    order by 1"""

# The 1m candles tell every change of prices, sizes and counts; the ledger tells another file from the source.
_MARKS: LiteralString = """select day, md5(concat_ws('/',
        (select string_agg(concat_ws(' ', extract(epoch from time)::bigint, open, high, low, close,
                trim_scale(volume), row_count), ',' order by time)
            from candles where series_id = %(series)s and timeframe = 60
                and time >= day::timestamp at time zone 'UTC'
                and time < (day + 1)::timestamp at time zone 'UTC'),
        (select string_agg(concat_ws(' ', extract(epoch from hour)::bigint, outcome, checksum), ',' order by hour)
            from import_ledger where series_id = %(series)s and outcome in ('ok', 'empty')
                and hour >= day::timestamp at time zone 'UTC'
                and hour < (day + 1)::timestamp at time zone 'UTC')))
    from unnest(%(days)s::date[]) as wanted(day)"""

_HOURS: LiteralString = """select (extract(epoch from hour) * 1000000)::bigint, outcome, row_count, checksum, service,
        origin, settled
    from import_ledger where series_id = {series} and hour >= {first} and hour < {end}
        and outcome in ('ok', 'empty') order by hour"""


def list_days(conn: psycopg.Connection[Any], series: SeriesInfo) -> list[StoredDay]:
    """Return the days of a series that have records, or had them, or were imported; ascending. Blocking."""
    stored = BY_NAME[series.type].stored
    table = "" if stored is None else stored.table
    rows = conn.execute(_DAYS, {"series": series.id, "table": table}).fetchall()
    return [StoredDay(day, count, dropped) for day, count, dropped in rows]


def day_marks(conn: psycopg.Connection[Any], series_id: int, days: Sequence[date]) -> dict[date, str]:
    """Return the mark of each day: as long as it is the same, so are the day's records. Blocking."""
    return dict(conn.execute(_MARKS, {"series": series_id, "days": list(days)}).fetchall())


def imported_hours(
    conn: psycopg.Connection[Any], series_id: int, first_us: int, end_us: int
) -> list[ImportedHour]:
    """Return the hours in ``[first_us, end_us)`` whose import is done. Blocking."""
    statement = sql.SQL(_HOURS).format(
        series=sql.Literal(series_id), first=timestamp(first_us), end=timestamp(end_us)
    )
    return [ImportedHour(*row) for row in conn.execute(statement).fetchall()]
