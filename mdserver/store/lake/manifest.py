"""The table ``pushed_days``: what lies in a data lake and was verified there, and what retention has to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from ...kinds import KINDS
from ...model import TIMEFRAMES, US_PER_S, PushedDay
from .days import day_marks, dropped_before, late_days

__all__ = [
    "DayInLake",
    "days_in_lake_alone",
    "list_days_in_lake",
    "note_pushed",
    "read_pushed",
    "unpushed_days",
]

_EPOCH = date(1970, 1, 1)

_READ: LiteralString = """select s.broker, s.symbol, s.type, p.day, p.what, p.object_key, p.row_count, p.size_bytes,
        p.checksum, p.mark, p.hist_v
    from pushed_days p join series s on s.id = p.series_id where p.lake = %s order by 1, 2, 3, 5, 4"""

_NOTE: LiteralString = """insert into pushed_days as known
        (lake, series_id, what, day, object_key, row_count, size_bytes, checksum, mark, hist_v)
    select %s, id, %s, %s, %s, %s, %s, %s, %s, %s from series where broker = %s and symbol = %s and type = %s
        and variant = ''
    on conflict (lake, series_id, what, day) do update set
        object_key = excluded.object_key, row_count = excluded.row_count, size_bytes = excluded.size_bytes,
        mark = excluded.mark, hist_v = excluded.hist_v, checksum = excluded.checksum,
        pushed_at = case when known.checksum = excluded.checksum then known.pushed_at else now() end"""

_DAYS_OF_PART: LiteralString = """select c.series_id, (c.time at time zone 'UTC')::date,
        s.hist_v = p.hist_v and c.row_count = p.row_count, p.mark
    from candles c join series s on s.id = c.series_id
    left join pushed_days p on p.lake = %(lake)s and p.series_id = c.series_id and p.what = 'records'
        and p.day = (c.time at time zone 'UTC')::date
    where s.type = any(%(types)s) and c.timeframe = 86400 and c.time >= %(first)s and c.time < %(end)s
    order by 2, 1"""

_LATE_MARKS: LiteralString = """select mark from pushed_days
    where lake = %s and series_id = %s and day = %s and what = 'records'"""

_ALONE: LiteralString = """select min(p.day), max(p.day)
    from pushed_days p join retention r on r.table_name = %(table)s
        and p.day < (r.dropped_before at time zone 'UTC')::date
    where p.series_id = any(%(series)s) and p.what = 'records' and p.row_count > 0
        and p.day between (timestamptz 'epoch' + %(first)s * interval '1 microsecond')::date
            and (timestamptz 'epoch' + %(last)s * interval '1 microsecond')::date"""

_DAYS_ALONE: LiteralString = """select p.series_id, p.day, p.row_count, p.size_bytes, p.checksum
    from pushed_days p join retention r on r.table_name = %(table)s
        and p.day < (r.dropped_before at time zone 'UTC')::date
    where p.lake = %(lake)s and p.series_id = any(%(series)s) and p.what = 'records' and p.row_count > 0
        and p.day between (timestamptz 'epoch' + %(first)s * interval '1 microsecond')::date
            and (timestamptz 'epoch' + %(last)s * interval '1 microsecond')::date
    order by p.day, p.series_id"""

_NAMES = "select id, broker || ' ' || symbol || ' ' || type from series where id = any(%s)"


class DayInLake(Struct, frozen=True):
    """A day of a series whose records retention has dropped, and which lies in the lake.

    ``size_bytes`` and ``checksum`` are those of its object.
    """

    series_id: int
    day: date
    count: int
    size_bytes: int
    checksum: str

    @property
    def start_us(self) -> int:
        """Midnight UTC, in microseconds."""
        return (self.day - _EPOCH).days * TIMEFRAMES["1d"] * US_PER_S


def read_pushed(conn: psycopg.Connection[Any], lake: str) -> list[PushedDay]:
    """Return all that was pushed to a lake. Blocking."""
    with conn.cursor(row_factory=args_row(PushedDay)) as cursor:
        return cursor.execute(_READ, [lake]).fetchall()


def note_pushed(conn: psycopg.Connection[Any], lake: str, pushed: PushedDay) -> None:
    """Note a day that lies in a lake and was verified there; it replaces what was known of it. Blocking."""
    conn.execute(
        _NOTE,
        (
            *(lake, pushed.what, pushed.day, pushed.key, pushed.count, pushed.size_bytes, pushed.checksum),
            *(pushed.mark, pushed.hist_v, pushed.broker, pushed.symbol, pushed.type),
        ),
    )


def days_in_lake_alone(
    conn: psycopg.Connection[Any], series_ids: Sequence[int], table: str, first_us: int, last_us: int
) -> tuple[date, date] | None:
    """Return the first and the last day of a range that were pushed and whose records retention has dropped.

    Days that were pulled back since count too, until retention drops them again. Blocking.
    """
    values = {"table": table, "series": list(series_ids), "first": first_us, "last": last_us}
    row = conn.execute(_ALONE, values).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])


def list_days_in_lake(
    conn: psycopg.Connection[Any],
    lake: str,
    series_ids: Sequence[int],
    table: str,
    first_us: int,
    last_us: int,
) -> list[DayInLake]:
    """Return the days of a range that were pushed to this lake and whose records retention has dropped. Blocking."""
    values = {
        "lake": lake,
        "table": table,
        "series": list(series_ids),
        "first": first_us,
        "last": last_us,
    }
    return [DayInLake(*row) for row in conn.execute(_DAYS_ALONE, values).fetchall()]


def unpushed_days(
    conn: psycopg.Connection[Any], lake: str, table: str, first: datetime, end: datetime
) -> list[str]:
    """Return which days of a table's rows in ``[first, end)`` do not lie in the lake as they are, in words.

    Of days that were dropped before only the rows count that are there again, and those must be in the lake with the
    others: candles without rows have nothing to lose.
    """
    before = dropped_before(conn, table)
    late = [] if before is None or before <= first else late_days(conn, table, first, min(end, before))
    if before is not None:
        first = max(first, before)
    types = [kind.name for kind in KINDS.values() if kind.stored is not None and kind.stored.table == table]
    rows = conn.execute(_DAYS_OF_PART, {"lake": lake, "types": types, "first": first, "end": end}).fetchall()
    wrong: list[tuple[date, int]] = []
    compare: dict[int, dict[date, str]] = {}
    for series_id, day, same, mark in rows:
        if mark is None:
            wrong.append((day, series_id))
        elif not same:  # a change of history, or records that came after the push: compare
            compare.setdefault(series_id, {})[day] = mark
    for series_id, day in late:
        row = conn.execute(_LATE_MARKS, (lake, series_id, day)).fetchone()
        compare.setdefault(series_id, {})[day] = "" if row is None else row[0]
    for series_id, marks in compare.items():
        now = day_marks(conn, series_id, list(marks))
        wrong += [(day, series_id) for day, mark in marks.items() if now[day] != mark]
    names = dict(conn.execute(_NAMES, [sorted({series_id for _, series_id in wrong})]).fetchall())
    return [f"{names[series_id]} {day}" for day, series_id in sorted(wrong)]
