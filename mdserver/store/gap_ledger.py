"""The table ``gaps``: intervals in which records of a series may be missing, and the state of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from ..model import Gap, GapState, RecordType, Topic

__all__ = ["GapRow", "last_gap_seqs", "mark_gap", "read_gaps", "read_gaps_by_seq", "write_gaps"]


class GapRow(Struct, frozen=True):
    """A row of ``gaps``, with its series' names; times in microseconds."""

    id: int
    series_id: int
    broker: str
    symbol: str
    type: RecordType
    from_us: int
    to_us: int
    cause: str
    size: int | None
    state: GapState


_WRITE = """insert into gaps (series_id, from_time, to_time, cause, size, state, seq)
    values (%s, timestamptz 'epoch' + %s * interval '1 microsecond',
            timestamptz 'epoch' + %s * interval '1 microsecond', %s, %s, %s, %s)
    on conflict do nothing"""

_BUMP_HISTORY = "update series set hist_v = hist_v + 1 where id = any(%s)"

_READ: LiteralString = """select g.id, g.series_id, s.broker, s.symbol, s.type,
        (extract(epoch from g.from_time) * 1000000)::bigint, (extract(epoch from g.to_time) * 1000000)::bigint,
        g.cause, g.size, g.state
    from gaps g join series s on s.id = g.series_id
    where (%(series)s::int is null or g.series_id = %(series)s)
      and (%(symbol)s::text is null or s.symbol = %(symbol)s)
      and (%(broker)s::text is null or s.broker = %(broker)s)
      and (%(state)s::text is null or g.state = %(state)s)
      and not g.cause = any(%(but)s::text[])
      and g.to_time >= timestamptz 'epoch' + %(first)s * interval '1 microsecond'
      and g.from_time <= timestamptz 'epoch' + %(last)s * interval '1 microsecond'
    order by g.from_time, g.id limit %(limit)s"""

_BY_SEQ: LiteralString = """select seq, (extract(epoch from from_time) * 1000000)::bigint,
        (extract(epoch from to_time) * 1000000)::bigint, cause, size, state
    from gaps where series_id = %s and seq >= %s and (%s::bigint is null or seq <= %s)
    order by seq, from_time, id"""

_LAST_SEQS = (
    "select series_id, max(seq) from gaps where series_id = any(%s) and seq is not null group by series_id"
)

_MARK = "update gaps set state = %s where id = %s returning series_id"


def write_gaps(conn: psycopg.Connection[Any], gaps: Sequence[tuple[int, int, Gap]]) -> None:
    """Add gaps, each with the id of its series and the number of the record before it; a known one stays unchanged.

    Where a series has a gap, another source may answer for it, so its history counts as changed. Blocking; runs
    inside the caller's transaction.
    """
    if not gaps:
        return
    with conn.cursor() as cursor:
        cursor.executemany(
            _WRITE,
            [
                (series_id, gap.from_us, max(gap.from_us, gap.time_us), gap.cause, gap.size, gap.state, seq)
                for series_id, seq, gap in gaps
            ],
        )
    conn.execute(_BUMP_HISTORY, [sorted({series_id for series_id, _, _ in gaps})])


def read_gaps(
    conn: psycopg.Connection[Any],
    first_us: int,
    last_us: int,
    *,
    series_id: int | None = None,
    symbol: str | None = None,
    broker: str | None = None,
    state: GapState | None = None,
    but: Sequence[str] = (),
    limit: int,
) -> list[GapRow]:
    """Return the gaps that touch ``[first_us, last_us]``, earliest first, none with a cause of ``but``. Blocking."""
    values = {
        "series": series_id,
        "symbol": symbol,
        "broker": broker,
        "state": state,
        "but": list(but),
        "first": first_us,
        "last": last_us,
        "limit": limit,
    }
    with conn.cursor(row_factory=args_row(GapRow)) as cursor:
        return cursor.execute(_READ, values).fetchall()


def read_gaps_by_seq(
    conn: psycopg.Connection[Any], series_id: int, topic: Topic, first: int, last: int | None
) -> list[tuple[int, Gap]]:
    """Return the gaps behind the records ``first`` to ``last`` (None: to the end), in order, each with that number.

    Blocking.
    """
    rows = conn.execute(_BY_SEQ, [series_id, first, last, last], prepare=True).fetchall()
    return [(seq, Gap(topic, *values)) for seq, *values in rows]


def last_gap_seqs(conn: psycopg.Connection[Any], series_ids: Collection[int]) -> dict[int, int]:
    """Return the number that the last gap of each series lies behind; a series without gaps is left out. Blocking."""
    return dict(conn.execute(_LAST_SEQS, [list(series_ids)]).fetchall())


def mark_gap(conn: psycopg.Connection[Any], gap_id: int, state: GapState) -> bool:
    """Set the state of a gap; return False if no gap has this id. Runs inside the caller's transaction. Blocking."""
    row = conn.execute(_MARK, [state, gap_id]).fetchone()
    if row is None:
        return False
    conn.execute(_BUMP_HISTORY, [[row[0]]])
    return True
