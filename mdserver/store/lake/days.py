"""The days of a series: which there are, and a mark of each that changes when its records do.

A *late* day is one whose records retention has dropped, but of which there are records again: stored late, imported
anew, or pulled back. Its candles are those of all records, so they do not tell what is there: the rows do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ...kinds import BY_NAME
from ...model import ImportedHour, StoredDay
from ..scan import timestamp
from ..series import SeriesInfo

__all__ = ["day_marks", "dropped_before", "imported_hours", "late_days", "list_days"]

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

_DROPPED_BEFORE = "select dropped_before from retention where table_name = %s"

_LATE_DAYS: LiteralString = """select distinct series_id, (time at time zone 'UTC')::date from {table}
    where time >= {first} and time < {end}{own}"""

# a sum: it needs neither an order nor the texts of all rows in memory
_LATE_MARKS: LiteralString = """select day, count(*) || ' ' || sum(hashtextextended(late::text, 0)::numeric)
    from unnest(%(days)s::date[]) as wanted(day) join {table} late on late.series_id = %(series)s
        and late.time >= day::timestamp at time zone 'UTC' and late.time < (day + 1)::timestamp at time zone 'UTC'
    group by day"""

LATE = "+"
"""In a mark of a late day, between that of its candles and that of its rows."""

_HOURS: LiteralString = """select (extract(epoch from hour) * 1000000)::bigint, outcome, row_count, checksum, service,
        origin, settled
    from import_ledger where series_id = {series} and hour >= {first} and hour < {end}
        and outcome in ('ok', 'empty') order by hour"""


def list_days(conn: psycopg.Connection[Any], series: SeriesInfo) -> list[StoredDay]:
    """Return the days of a series that have records, or had them, or were imported; ascending. Blocking."""
    stored = BY_NAME[series.type].stored
    table = "" if stored is None else stored.table
    rows = conn.execute(_DAYS, {"series": series.id, "table": table}).fetchall()
    late: set[date] = set()
    if stored is not None and (before := dropped_before(conn, table)) is not None:
        late = {day for _, day in late_days(conn, table, None, before, series.id)}
    days = [StoredDay(day, count, dropped, day in late) for day, count, dropped in rows]
    unknown = late - {
        one.day for one in days
    }  # records that have no candle: those of dropped days are left alone
    return sorted([*days, *(StoredDay(day, 0, True, True) for day in unknown)], key=lambda one: one.day)


def dropped_before(conn: psycopg.Connection[Any], table: str) -> datetime | None:
    """Return up to where retention has dropped the rows of a table, None if it never did. Blocking."""
    row = conn.execute(_DROPPED_BEFORE, [table]).fetchone()
    return None if row is None else row[0]


def late_days(
    conn: psycopg.Connection[Any],
    table: str,
    first: datetime | None,
    end: datetime,
    series_id: int | None = None,
) -> list[tuple[int, date]]:
    """Return the series and days of a table's rows in ``[first, end)``. Blocking."""
    own = sql.SQL("" if series_id is None else " and series_id = {}").format(sql.Literal(series_id))
    statement = sql.SQL(_LATE_DAYS).format(
        table=sql.Identifier(table),
        first=sql.SQL("'-infinity'") if first is None else sql.Literal(first),
        end=sql.Literal(end),
        own=own,
    )
    return conn.execute(statement).fetchall()


def day_marks(conn: psycopg.Connection[Any], series_id: int, days: Sequence[date]) -> dict[date, str]:
    """Return the mark of each day: as long as it is the same, so are the day's records. Blocking."""
    marks = dict(conn.execute(_MARKS, {"series": series_id, "days": list(days)}).fetchall())
    row = conn.execute("select type from series where id = %s", [series_id]).fetchone()
    stored = None if row is None else BY_NAME[row[0]].stored
    if stored is None or (before := dropped_before(conn, stored.table)) is None:
        return marks
    dropped = [day for day in days if day < before.astimezone(UTC).date()]
    late = sql.SQL(_LATE_MARKS).format(table=sql.Identifier(stored.table))
    for day, mark in conn.execute(late, {"series": series_id, "days": dropped}).fetchall():
        marks[day] += LATE + mark
    return marks


def imported_hours(
    conn: psycopg.Connection[Any], series_id: int, first_us: int, end_us: int
) -> list[ImportedHour]:
    """Return the hours in ``[first_us, end_us)`` whose import is done. Blocking."""
    statement = sql.SQL(_HOURS).format(
        series=sql.Literal(series_id), first=timestamp(first_us), end=timestamp(end_us)
    )
    return [ImportedHour(*row) for row in conn.execute(statement).fetchall()]
