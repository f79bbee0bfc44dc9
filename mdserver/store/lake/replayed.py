"""What a client is told whose replay would begin with records that only the data lake has."""

from __future__ import annotations

from typing import Any

import psycopg

from ...kinds import BY_NAME
from ...stream.stored_past import Begin, FromTime, Start
from ..series import SeriesInfo
from .manifest import days_in_lake_alone

__all__ = ["where_they_are"]

_LAST_US = 7_258_118_400_000_000
"""2200-01-01: no record has a later time."""


def where_they_are(
    conn: psycopg.Connection[Any], series: SeriesInfo | None, start: Start, begin: Begin
) -> Begin:
    """Return where a replay begins, and where the records are that it lacks, if the lake has them. Blocking."""
    if begin.missing is None or begin.is_above or series is None:
        return begin
    stored = BY_NAME[series.type].stored
    if stored is None:
        return begin
    from_us = max(0, start.time_us) if isinstance(start, FromTime) else 0
    days = days_in_lake_alone(conn, [series.id], stored.table, from_us, _LAST_US)
    if days is None:
        return begin
    where = f"those of {days[0]} to {days[1]} are in the data lake, which answers /api/{stored.table}"
    return begin._replace(missing=f"{begin.missing}; {where}")
