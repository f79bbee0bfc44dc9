"""The table ``seq_times``: where in time the records of a range of numbers lie.

Numbers rise in the order of storing and times nearly so, but a late record has an older time and a later number. For
each :data:`BLOCK` numbers of a series there is a row per hour that its records fall into, with the first and the last
time in that hour: so a record that is a day late costs one more row, not a search of the whole day. The rows are
written with the records, in one transaction, and may name more time than the records take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import numpy as np
import psycopg

from ..candles import Ints
from ..model import US_PER_S
from .pg_binary import Int4Array, Int8Array, TimeArray, to_postgres_us

__all__ = ["BLOCK", "Span", "note_times", "spans_from_seq", "spans_from_time"]

BLOCK = 4096
"""Numbers of a series in one row."""

MOST_SPANS = 32
"""Intervals that one page is read from; above it, those of a block become one: a series of so few records is small."""

_HOUR_US = 3600 * US_PER_S

_NOTE = """insert into seq_times as known (series_id, block, hour, first, last) select * from unnest(%s, %s, %s, %s, %s)
    on conflict (series_id, block, hour) do update
        set first = least(known.first, excluded.first), last = greatest(known.last, excluded.last)
        where excluded.first < known.first or excluded.last > known.last"""

_US: LiteralString = "(extract(epoch from {}) * 1000000)::bigint"

_OF_BLOCK: LiteralString = f"""select block, {_US.format("first")}, {_US.format("last")},
        exists (select from seq_times b where b.series_id = a.series_id and b.block > a.block)
    from seq_times a where series_id = %(series)s and block = (
        select min(block) from seq_times where series_id = %(series)s and {{where}}) order by hour"""  # noqa: S608

_BY_SEQ = _OF_BLOCK.replace("{where}", "block >= %(from)s")
_BY_TIME = _OF_BLOCK.replace(
    "{where}", "block >= %(block)s and last >= timestamptz 'epoch' + %(from)s * interval '1 microsecond'"
)


class Span(NamedTuple):
    """A block of numbers: the intervals of time, both ends included, that hold its records; ``more``: others follow."""

    block: int
    intervals: list[tuple[int, int]]
    more: bool


def note_times(conn: psycopg.Connection[Any], series_id: Ints, seq: Ints, time_us: Ints) -> None:
    """Note where the records of these series, numbers and times lie; all of one length. Blocking."""
    block, hour = seq // BLOCK, time_us // _HOUR_US
    order = np.lexsort((hour, block, series_id))
    keys = np.stack((series_id[order], block[order], hour[order]))
    first = np.flatnonzero(np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0))))
    times = time_us[order]
    parameters = (
        Int4Array.of(keys[0, first]),
        Int8Array.of(keys[1, first]),
        Int4Array.of(keys[2, first]),
        TimeArray.of(to_postgres_us(np.minimum.reduceat(times, first))),
        TimeArray.of(to_postgres_us(np.maximum.reduceat(times, first))),
    )
    conn.execute(_NOTE, parameters, prepare=True)


def spans_from_seq(conn: psycopg.Connection[Any], series_id: int, seq: int) -> Span | None:
    """Return the block of ``seq``, or the first behind it that has records; None if there is none. Blocking."""
    return _span(conn.execute(_BY_SEQ, {"series": series_id, "from": seq // BLOCK}, prepare=True).fetchall())


def spans_from_time(
    conn: psycopg.Connection[Any], series_id: int, time_us: int, from_block: int = 0
) -> Span | None:
    """Return the first block from ``from_block`` on that may have a record of this time or later, or None. Blocking."""
    values = {"series": series_id, "from": time_us, "block": from_block}
    return _span(conn.execute(_BY_TIME, values).fetchall())


def _span(rows: Sequence[tuple[Any, ...]]) -> Span | None:
    if not rows:
        return None
    intervals: list[tuple[int, int]] = []
    for _, first, last, _ in rows:
        if intervals and first - intervals[-1][1] <= _HOUR_US:
            intervals[-1] = intervals[-1][0], last
        else:
            intervals.append((first, last))
    if len(intervals) > MOST_SPANS:
        intervals = [(intervals[0][0], intervals[-1][1])]
    block, _, _, more = rows[0]
    return Span(block, intervals, more)
