"""The tables of intervals in which records of a series may be missing: ``gaps`` that ended, and ``lasting_gaps``.

A gap that lasts is written when it begins, one of a series at most, so that it survives a crash of the server; when it
ends it moves to ``gaps``, which has the state of each. Those of a venue's garbage share rows: see
:mod:`.recurring_gaps`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from ..model import OF_GARBAGE, OF_STORING, Gap, GapState, RecordType, Topic
from .recurring_gaps import NEAR_US, LedgerRow, fold

__all__ = [
    "GapRow",
    "LastingGap",
    "is_gap_behind",
    "last_gap_seqs",
    "mark_gap",
    "read_gaps",
    "read_gaps_by_seq",
    "read_holes",
    "read_lasting_gaps",
    "write_gaps",
]


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


class LastingGap(Struct, frozen=True):
    """A gap that has not ended, with its series' names; time in microseconds."""

    broker: str
    symbol: str
    type: RecordType
    from_us: int
    cause: str
    size: int | None


# After a crash the same gap is written once more, perhaps with a cause that knows less.
_BEGIN = """insert into lasting_gaps as known (series_id, from_time, cause, size)
    values (%s, timestamptz 'epoch' + %s * interval '1 microsecond', %s, %s)
    on conflict (series_id) do update set from_time = excluded.from_time, cause = excluded.cause, size = excluded.size
        where known.from_time <> excluded.from_time"""

_END = "delete from lasting_gaps where series_id = %s"

_READ_LASTING: LiteralString = """select s.broker, s.symbol, s.type,
        (extract(epoch from g.from_time) * 1000000)::bigint, g.cause, g.size
    from lasting_gaps g join series s on s.id = g.series_id
    where (%(symbol)s::text is null or s.symbol = %(symbol)s)
      and (%(broker)s::text is null or s.broker = %(broker)s)
      and (%(symbols)s::text[] is null or s.symbol = any(%(symbols)s))
      and (%(brokers)s::text[] is null or s.broker = any(%(brokers)s))
      and g.from_time <= timestamptz 'epoch' + %(last)s * interval '1 microsecond'
    order by g.from_time, g.series_id limit %(limit)s"""

_WRITE = """insert into gaps (series_id, from_time, to_time, cause, size, state, seq, last_seq)
    values (%s, timestamptz 'epoch' + %s * interval '1 microsecond',
            timestamptz 'epoch' + %s * interval '1 microsecond', %s, %s, %s, %s, %s)
    on conflict do nothing"""

_NEAR = """select id, (extract(epoch from from_time) * 1000000)::bigint,
        (extract(epoch from to_time) * 1000000)::bigint, size, state, seq, coalesce(last_seq, seq)
    from gaps where series_id = %s and cause = %s and seq is not null
      and from_time >= timestamptz 'epoch' + %s * interval '1 microsecond'"""

_GROW = """update gaps set to_time = timestamptz 'epoch' + %s * interval '1 microsecond', size = %s, state = %s,
        seq = %s, last_seq = %s
    where id = %s"""

_BUMP_HISTORY = "update series set hist_v = hist_v + 1 where id = any(%s)"

_READ: LiteralString = """select g.id, g.series_id, s.broker, s.symbol, s.type,
        (extract(epoch from g.from_time) * 1000000)::bigint, (extract(epoch from g.to_time) * 1000000)::bigint,
        g.cause, g.size, g.state
    from gaps g join series s on s.id = g.series_id
    where (%(series)s::int is null or g.series_id = %(series)s)
      and (%(symbol)s::text is null or s.symbol = %(symbol)s)
      and (%(broker)s::text is null or s.broker = %(broker)s)
      and (%(symbols)s::text[] is null or s.symbol = any(%(symbols)s))
      and (%(brokers)s::text[] is null or s.broker = any(%(brokers)s))
      and (%(state)s::text is null or g.state = %(state)s)
      and not g.cause = any(%(but)s::text[])
      and g.to_time >= timestamptz 'epoch' + %(first)s * interval '1 microsecond'
      and g.from_time <= timestamptz 'epoch' + %(last)s * interval '1 microsecond'
    order by g.from_time, g.id limit %(limit)s"""

_HOLES: LiteralString = """
    (select (extract(epoch from from_time) * 1000000)::bigint as first, (extract(epoch from to_time) * 1000000)::bigint
    from gaps where series_id = %(series)s and state <> 'filled'
      and to_time >= timestamptz 'epoch' + %(first)s * interval '1 microsecond'
      and from_time <= timestamptz 'epoch' + %(last)s * interval '1 microsecond'
    order by from_time limit %(limit)s)
    union all
    select (extract(epoch from from_time) * 1000000)::bigint, null from lasting_gaps where series_id = %(series)s
      and from_time <= timestamptz 'epoch' + %(last)s * interval '1 microsecond'
    order by 1"""

# Of a row of several gaps the first that is asked for gives the place: who reads on from there is told of all.
_BY_SEQ: LiteralString = """select greatest(seq, %(first)s), coalesce(last_seq, seq),
        (extract(epoch from from_time) * 1000000)::bigint, (extract(epoch from to_time) * 1000000)::bigint,
        cause, size, state
    from gaps where series_id = %(series)s and coalesce(last_seq, seq) >= %(first)s
      and (%(last)s::bigint is null or seq <= %(last)s)
    order by 1, from_time, id"""

_ENDS: LiteralString = """select exists (select from gaps where series_id = %(series)s
    and (seq between %(first)s and %(last)s or last_seq between %(first)s and %(last)s))"""

_LAST_SEQS = """select series_id, max(coalesce(last_seq, seq)) from gaps
    where series_id = any(%s) and seq is not null group by series_id"""

_MARK: LiteralString = """update gaps set state = %(state)s where id = %(id)s
      and (%(to)s::bigint is null or to_time = timestamptz 'epoch' + %(to)s * interval '1 microsecond')
    returning series_id"""


def write_gaps(conn: psycopg.Connection[Any], gaps: Sequence[tuple[int, int, Gap]]) -> None:
    """Add gaps in their order, each with the id of its series and the number of the record before it.

    One that is already stored is left unchanged. One of a venue's garbage may become part of an earlier row.

    One without an end is the series' lasting gap until one with an end comes. Where a series has a gap, another source
    may answer for it, so its history counts as changed. Blocking; runs inside the caller's transaction.
    """
    if not gaps:
        return
    lasting: dict[int, Gap | None] = {}
    ended: list[tuple[int, int, Gap]] = []
    recurring: dict[tuple[int, str], list[tuple[int, Gap]]] = {}
    for series_id, seq, gap in gaps:
        if gap.to_us is not None:
            if gap.cause in OF_GARBAGE and gap.state == "open":
                recurring.setdefault((series_id, gap.cause), []).append((seq, gap))
            else:
                ended.append((series_id, seq, gap))
        if gap.cause not in OF_STORING:  # what was not stored says nothing of the venue
            lasting[series_id] = gap if gap.to_us is None else None
    with conn.cursor() as cursor:
        cursor.executemany(
            _WRITE,
            [
                (
                    series_id,
                    gap.from_us,
                    max(gap.from_us, gap.time_us),
                    gap.cause,
                    gap.size,
                    gap.state,
                    seq,
                    None,
                )
                for series_id, seq, gap in ended
            ],
        )
        cursor.executemany(_END, [[series_id] for series_id, gap in lasting.items() if gap is None])
        begun = [(series_id, gap) for series_id, gap in lasting.items() if gap is not None]
        cursor.executemany(
            _BEGIN, [(series_id, gap.from_us, gap.cause, gap.size) for series_id, gap in begun]
        )
        for (series_id, cause), some in recurring.items():
            _write_recurring(cursor, series_id, cause, some)
    touched = {one[0] for one in ended} | {one[0] for one in recurring} | {one[0] for one in begun}
    if touched:
        conn.execute(_BUMP_HISTORY, [sorted(touched)])


def _write_recurring(
    cursor: psycopg.Cursor[Any], series_id: int, cause: str, gaps: Sequence[tuple[int, Gap]]
) -> None:
    first_us = min(gap.from_us for _, gap in gaps)
    near = cursor.execute(_NEAR, [series_id, cause, first_us - NEAR_US], prepare=True).fetchall()
    rows = fold([LedgerRow(*row) for row in near], gaps)
    cursor.executemany(
        _WRITE,
        [
            (series_id, row.from_us, row.to_us, cause, row.size, row.state, row.seq, _beyond(row))
            for row in rows
            if row.id is None
        ],
    )
    cursor.executemany(
        _GROW,
        [
            (row.to_us, row.size, row.state, row.seq, _beyond(row), row.id)
            for row in rows
            if row.id is not None
        ],
    )


def _beyond(row: LedgerRow) -> int | None:
    return row.last_seq if row.last_seq > row.seq else None


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
    symbols: Collection[str] | None = None,
    brokers: Collection[str] | None = None,
    limit: int,
) -> list[GapRow]:
    """Return the gaps that touch ``[first_us, last_us]``, earliest first, none with a cause of ``but``.

    ``symbols`` and ``brokers`` are those that the client may see; None: all. Blocking.
    """
    values = {
        "series": series_id,
        "symbol": symbol,
        "broker": broker,
        "state": state,
        "but": list(but),
        "symbols": None if symbols is None else list(symbols),
        "brokers": None if brokers is None else list(brokers),
        "first": first_us,
        "last": last_us,
        "limit": limit,
    }
    with conn.cursor(row_factory=args_row(GapRow)) as cursor:
        return cursor.execute(_READ, values).fetchall()


def read_holes(
    conn: psycopg.Connection[Any], series_id: int, first_us: int, last_us: int, *, limit: int
) -> list[tuple[int, int | None]]:
    """Return when records of a series are missing: (from, to) of its gaps that touch ``[first_us, last_us]``.

    Those that were filled are left out. ``to`` is None for a gap that lasts. If there are more than ``limit``, the last
    one that is returned has no end either: nothing is known of what is behind it. Blocking.
    """
    values = {"series": series_id, "first": first_us, "last": last_us, "limit": limit + 1}
    found = conn.execute(_HOLES, values, prepare=True).fetchall()
    if len(found) > limit:
        return [*found[:limit], (found[limit][0], None)]
    return found


def read_gaps_by_seq(
    conn: psycopg.Connection[Any], series_id: int, topic: Topic, first: int, last: int | None
) -> list[tuple[int, int, Gap]]:
    """Return the gaps behind the records ``first`` to ``last`` (None: to the end), in order, each with that number.

    The second number is that of the last record that the gap lies behind; it is another one for several gaps in one
    row. Blocking.
    """
    values = {"series": series_id, "first": first, "last": last}
    rows = conn.execute(_BY_SEQ, values, prepare=True).fetchall()
    return [(seq, last_seq, Gap(topic, *columns)) for seq, last_seq, *columns in rows]


def is_gap_behind(conn: psycopg.Connection[Any], series_id: int, first: int, last: int) -> bool:
    """Return whether a gap is known to lie behind one of the records ``first`` to ``last``. Blocking.

    Of several gaps in one row that holds for the first and the last one; where those between lie is not kept.
    """
    values = {"series": series_id, "first": first, "last": last}
    return conn.execute(_ENDS, values, prepare=True).fetchone() == (True,)


def last_gap_seqs(conn: psycopg.Connection[Any], series_ids: Collection[int]) -> dict[int, int]:
    """Return the number that the last gap of each series lies behind; a series without gaps is left out. Blocking."""
    return dict(conn.execute(_LAST_SEQS, [list(series_ids)]).fetchall())


def read_lasting_gaps(
    conn: psycopg.Connection[Any],
    last_us: int,
    *,
    symbol: str | None = None,
    broker: str | None = None,
    symbols: Collection[str] | None = None,
    brokers: Collection[str] | None = None,
    limit: int,
) -> list[LastingGap]:
    """Return the gaps that last and began until ``last_us``, earliest first. Blocking."""
    values = {
        "symbol": symbol,
        "broker": broker,
        "symbols": None if symbols is None else list(symbols),
        "brokers": None if brokers is None else list(brokers),
        "last": last_us,
        "limit": limit,
    }
    with conn.cursor(row_factory=args_row(LastingGap)) as cursor:
        return cursor.execute(_READ_LASTING, values).fetchall()


def mark_gap(
    conn: psycopg.Connection[Any], gap_id: int, state: GapState, *, to_us: int | None = None
) -> bool:
    """Set the state of a gap; return False if no gap has this id, or if it does not end at ``to_us`` (None: anywhere).

    Runs inside the caller's transaction. Blocking.
    """
    row = conn.execute(_MARK, {"state": state, "id": gap_id, "to": to_us}).fetchone()
    if row is None:
        return False
    conn.execute(_BUMP_HISTORY, [[row[0]]])
    return True
