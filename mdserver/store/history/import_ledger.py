"""The table ``import_ledger``: the outcome of each hour of a series that was imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from ...market_hours import HOUR_US
from ..pg_binary import TimeArray, to_postgres_us

__all__ = ["LedgerHour", "Outcome", "is_settled", "read_hours", "read_settled", "write_hours"]

Outcome: TypeAlias = Literal["ok", "empty", "denied", "failed"]
"""``ok``: the ticks are stored; ``empty``: the source reports an hour without ticks; ``denied``: it reports that it has
no such hour, which proves nothing; ``failed``: see the cause."""


class LedgerHour(Struct, frozen=True):
    """One row. ``checksum`` is of the file as fetched, "" where there was none; ``origin`` is its address.

    ``settled`` is False where the source may still change the hour: the next import asks again.
    """

    hour_us: int
    outcome: Outcome
    row_count: int = 0
    checksum: str = ""
    service: str = ""
    origin: str = ""
    cause: str = ""
    settled: bool = True
    attempts: int = 1


_READ = """select (extract(epoch from hour) * 1000000)::bigint, outcome, row_count, checksum, service, origin,
        cause, settled, attempts
    from import_ledger where series_id = %s and hour = any(%s) order by hour"""

_READ_SETTLED = """select (extract(epoch from hour) * 1000000)::bigint, outcome = 'empty'
    from import_ledger
    where series_id = %s and hour between %s and %s and outcome in ('ok', 'empty') and settled order by hour"""

_COUNT_SETTLED = """select count(*) from import_ledger
    where series_id = %s and hour between %s and %s and outcome <> 'failed' and settled"""

_WRITE = """insert into import_ledger as known
        (series_id, hour, outcome, row_count, checksum, service, origin, cause, settled)
    select %s, * from unnest(%s, %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bool[])
    on conflict (series_id, hour) do update set
        outcome = excluded.outcome, row_count = excluded.row_count, checksum = excluded.checksum,
        service = excluded.service, origin = excluded.origin, cause = excluded.cause,
        settled = excluded.settled, attempts = known.attempts + 1, changed_at = now()"""


def read_hours(
    conn: psycopg.Connection[Any], series_id: int, hours_us: Sequence[int]
) -> dict[int, LedgerHour]:
    """Return the rows of these hours, by their starts."""
    with conn.cursor(row_factory=args_row(LedgerHour)) as cursor:
        rows = cursor.execute(_READ, (series_id, _times(hours_us))).fetchall()
    return {row.hour_us: row for row in rows}


def read_settled(
    conn: psycopg.Connection[Any], series_id: int, first_us: int, last_us: int
) -> dict[int, bool]:
    """Return the hours in ``[first_us, last_us]`` that need no other import, and whether each is empty."""
    return dict(conn.execute(_READ_SETTLED, (series_id, *_bounds(conn, first_us, last_us))).fetchall())


def is_settled(conn: psycopg.Connection[Any], series_id: int, first_us: int, last_us: int) -> bool:
    """Return whether all hours that ``[first_us, last_us]`` touches are settled; False if one was never imported."""
    first = first_us - first_us % HOUR_US
    hours = (last_us - first) // HOUR_US + 1
    row = conn.execute(_COUNT_SETTLED, (series_id, *_bounds(conn, first, last_us))).fetchone()
    return row is not None and row[0] == hours


def write_hours(conn: psycopg.Connection[Any], series_id: int, hours: Sequence[LedgerHour]) -> None:
    """Add or replace rows; count one attempt more for those that exist."""
    if not hours:
        return
    texts = [[getattr(hour, name) for hour in hours] for name in ("checksum", "service", "origin", "cause")]
    parameters = (
        series_id,
        _times([hour.hour_us for hour in hours]),
        [hour.outcome for hour in hours],
        [hour.row_count for hour in hours],
        *([text.replace("\0", "") for text in column] for column in texts),  # PostgreSQL cannot hold a NUL
        [hour.settled for hour in hours],
    )
    conn.execute(_WRITE, parameters)


def _bounds(conn: psycopg.Connection[Any], first_us: int, last_us: int) -> list[Any]:
    rows = conn.execute(
        "select time from unnest(%s) with ordinality as given(time, n) order by n",
        [_times([first_us, last_us])],
    ).fetchall()
    return [row[0] for row in rows]


def _times(hours_us: Sequence[int]) -> TimeArray:
    return TimeArray.of(to_postgres_us(np.array(hours_us, np.int64)))
