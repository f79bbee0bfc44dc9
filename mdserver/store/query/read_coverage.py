"""What is stored of each day: hours with records, from the candles of an hour, and what the import ledger says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from .read_candles import utc_time

__all__ = ["CoverageDay", "read_coverage"]

_HOUR_S = 3_600
_DAY_S = 86_400


class CoverageDay(Struct, frozen=True):
    """A day of a series that anything is known of; ``day_s`` is its midnight, UTC.

    ``hours`` of it have ``records``. Of those that were imported, ``empty`` are confirmed to have no record, and
    ``failed`` are not stored: the source failed, or denied to have them.
    """

    series_id: int
    day_s: int
    hours: int
    records: int
    empty: int
    failed: int


_READ = """
with stored as (
    select series_id, floor(extract(epoch from time) / %(day)s)::bigint * %(day)s as day_s,
           count(*) as hours, sum(row_count)::bigint as records
    from candles
    where series_id = any(%(series)s) and timeframe = %(hour)s and time >= %(first)s and time < %(end)s
    group by 1, 2
), imported as (
    select series_id, floor(extract(epoch from hour) / %(day)s)::bigint * %(day)s as day_s,
           count(*) filter (where outcome = 'empty') as empty,
           count(*) filter (where outcome in ('failed', 'denied')) as failed
    from import_ledger
    where series_id = any(%(series)s) and hour >= %(first)s and hour < %(end)s
    group by 1, 2
)
select series_id, day_s, coalesce(hours, 0), coalesce(records, 0), coalesce(empty, 0), coalesce(failed, 0)
from stored full join imported using (series_id, day_s) order by series_id, day_s"""


def read_coverage(
    conn: psycopg.Connection[Any], series_ids: Sequence[int], first_s: int, end_s: int
) -> list[CoverageDay]:
    """Return the days in ``[first_s, end_s)`` that anything is known of, by series and day. Blocking."""
    values = {
        "series": list(series_ids),
        "first": utc_time(first_s),
        "end": utc_time(end_s),
        "hour": _HOUR_S,
        "day": _DAY_S,
    }
    with conn.cursor(row_factory=args_row(CoverageDay)) as cursor:
        return cursor.execute(_READ, values, prepare=True).fetchall()
