"""The table ``series``: one row per topic that was ever stored, with the counts and bounds of its records."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg.rows import args_row

from ..kinds import BY_NAME
from ..model import Gap, LastRecord, RecordType, Topic

__all__ = ["SeriesInfo", "list_series", "lock_series", "read_last_records"]


class SeriesInfo(Struct, frozen=True):
    """A row of ``series``; times in microseconds, None while no records are stored.

    Of a kind that is not stored ``latest_us`` is the time of the newest record that was published.
    """

    id: int
    broker: str
    symbol: str
    type: RecordType
    last_seq: int
    row_count: int
    earliest_us: int | None
    latest_us: int | None
    hist_v: int
    live_v: int
    variant: str = ""

    @property
    def topic(self) -> Topic:
        """The topic whose records these are."""
        return Topic(self.broker, self.symbol, self.type, self.variant)


# epoch as numeric is exact to the microsecond (as double precision it is not)
_COLUMNS: LiteralString = """s.id, s.broker, s.symbol, s.type, s.last_seq, s.row_count,
    (extract(epoch from s.earliest) * 1000000)::bigint, (extract(epoch from s.latest) * 1000000)::bigint,
    s.hist_v, s.live_v, s.variant"""

_LASTING: LiteralString = """select series_id, (extract(epoch from from_time) * 1000000)::bigint, cause, size
    from lasting_gaps"""

_NEWEST_CANDLES: LiteralString = """select series_id, (extract(epoch from max(time)) * 1000000)::bigint
    from candles where series_id = any(%s) and timeframe = 60 group by series_id"""

_LIST: LiteralString = f"""select {_COLUMNS} from series s
    where %(symbol)s::text is null or s.symbol = %(symbol)s order by s.id"""  # noqa: S608

_LOCK: LiteralString = f"""select {_COLUMNS} from series s
    join unnest(%s::text[], %s::text[], %s::text[], %s::text[]) as wanted(broker, symbol, type, variant)
        using (broker, symbol, type, variant)
    order by s.id for no key update of s"""  # noqa: S608

_CREATE = """insert into series (broker, symbol, type, variant)
    select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) on conflict do nothing"""


def list_series(conn: psycopg.Connection[Any], symbol: str | None = None) -> list[SeriesInfo]:
    """Return the series of kinds that are stored, of all symbols or one, in the order of their creation."""
    kept = {kind.name for kind in BY_NAME.values() if kind.stored is not None}
    return [series for series in _list(conn, symbol) if series.type in kept]


def read_last_records(conn: psycopg.Connection[Any]) -> dict[Topic, LastRecord]:
    """Return the last number and time of each topic and the gap that lasts, also of kinds that are not stored."""
    lasting = {row[0]: row[1:] for row in conn.execute(_LASTING).fetchall()}
    found: dict[Topic, LastRecord] = {}
    series = _list(conn, None)
    # retention has dropped all their records, but their candles are there: the newest begins before the last record
    dropped = [one.id for one in series if one.last_seq and one.latest_us is None]
    candles = dict(conn.execute(_NEWEST_CANDLES, [dropped]).fetchall()) if dropped else {}
    for one in series:
        hole = None
        if one.id in lasting:
            from_us, cause, size = lasting[one.id]
            hole = Gap(one.topic, from_us, None, cause, size)
        time_us = one.latest_us or (candles.get(one.id, 0) if hole is None else hole.from_us)
        found[one.topic] = LastRecord(one.last_seq, time_us, hole)
    return found


def _list(conn: psycopg.Connection[Any], symbol: str | None) -> list[SeriesInfo]:
    with conn.cursor(row_factory=args_row(SeriesInfo)) as cursor:
        return cursor.execute(_LIST, {"symbol": symbol}, prepare=True).fetchall()


def lock_series(conn: psycopg.Connection[Any], topics: Collection[Topic]) -> dict[Topic, SeriesInfo]:
    """Return the series of the topics, locked until the transaction ends; create those that are missing.

    The lock keeps out other writers of the same series, such as an import, but no readers. So what is read here stays
    true until the end of the transaction.
    """
    known = _lock(conn, topics)
    missing = [topic for topic in topics if topic not in known]
    if missing:
        conn.execute(_CREATE, _as_columns(missing))
        known |= _lock(conn, missing)
    return known


def _lock(conn: psycopg.Connection[Any], topics: Collection[Topic]) -> dict[Topic, SeriesInfo]:
    with conn.cursor(row_factory=args_row(SeriesInfo)) as cursor:
        found = cursor.execute(_LOCK, _as_columns(topics), prepare=True).fetchall()
    return {series.topic: series for series in found}


def _as_columns(topics: Collection[Topic]) -> list[list[str]]:
    return [[topic[number] for topic in topics] for number in range(len(Topic._fields))]
