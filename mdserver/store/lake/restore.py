"""Bring days of streamed records back into the database: rows, candles and metadata in one transaction.

A number means the same only within one numbering, which the database's epoch names. Records that come back into the
database that gave them their numbers keep these. In any other, the numbers are taken by other records, or soon will be:
there the records get negative ones (:data:`OTHER_NUMBERING`), in the same order and each always the same, so that a day
that comes twice is stored once, and a replay by number passes them by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg import sql

from ...candles import all_timeframes, candles_of_prices
from ...errors import BadMessage, Rejected
from ...kinds import BY_NAME
from ...model import TIMEFRAMES, US_PER_S, CandleRow, RecordColumns, Topic
from ..candle_table import put_candles
from ..recompute_candles import recompute
from ..rows import Rows, columns_fault, rows_of_columns
from ..scan import timestamp
from ..seq_times import note_times
from ..series import lock_series
from ..tables.partitions import ensure_partitions

__all__ = ["OTHER_NUMBERING", "load_candle_rows", "load_records"]

OTHER_NUMBERING = -(2**62)
"""Added to the numbers of another numbering."""

DAY_US = TIMEFRAMES["1d"] * US_PER_S

_HAS_ROWS: LiteralString = """select exists (
    select from {table} where series_id = {series} and time >= {first} and time < {end})"""

_COPY: LiteralString = "copy {into} ({columns}) from stdin (format binary)"
_COPIED = ("time", "seq", "series_id", "received")

_ADD: LiteralString = """with added as (
        insert into {table} ({columns}) select {columns} from {incoming} on conflict do nothing returning 1)
    select count(*) from added"""

_COUNT = """update series set row_count = row_count + %s, hist_v = hist_v + 1,
        earliest = least(earliest, timestamptz 'epoch' + %s * interval '1 microsecond'),
        latest = greatest(latest, timestamptz 'epoch' + %s * interval '1 microsecond')
    where id = %s"""

_ADD_CANDLES = """insert into candles (series_id, timeframe, time, open, high, low, close, volume, row_count)
    select %s, timeframe, timestamptz 'epoch' + time_us * interval '1 microsecond', open, high, low, close, volume, n
    from unnest(%s::int[], %s::bigint[], %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s::numeric[],
        %s::bigint[]) as new(timeframe, time_us, open, high, low, close, volume, n)
    on conflict do nothing"""


def load_records(
    conn: psycopg.Connection[Any], topic: Topic, day_us: int, records: RecordColumns, *, same_numbering: bool
) -> int:
    """Store the records of the day that begins at ``day_us``; return how many were not there. Blocking.

    Runs inside the caller's transaction. Raises BadMessage for records that cannot be stored.
    """
    stored = BY_NAME[topic.type].stored
    if stored is None:
        raise Rejected(f"records of the type {topic.type} are not stored")
    if fault := columns_fault(stored, records, day_us, day_us + DAY_US):
        raise BadMessage(fault)
    if not len(records.time_us):
        return 0
    if not same_numbering:
        other = np.where(records.seq > 0, records.seq + OTHER_NUMBERING, records.seq)
        records = records._replace(seq=other)
    first_us, last_us = int(records.time_us[0]), int(records.time_us[-1])
    ensure_partitions(conn, stored.table, first_us, last_us)
    series = lock_series(conn, {topic})[topic]
    rows = rows_of_columns(stored, records, series.id)
    names = {
        "table": sql.Identifier(stored.table),
        "series": sql.Literal(series.id),
        "first": timestamp(day_us),
        "end": timestamp(day_us + DAY_US),
    }
    found = conn.execute(sql.SQL(_HAS_ROWS).format(**names)).fetchone()
    if found == (False,):
        _copy(conn, rows, stored.table)
        if rows.prices is not None:
            put_candles(conn, series.id, all_timeframes(candles_of_prices(rows.prices)), "replace")
        added = len(rows)
    else:
        added = _add_missing(conn, rows)
        if added and rows.prices is not None:
            recompute(conn, stored.table, np.full(len(rows), series.id), rows.time_us)
    numbered = records.seq > 0
    if numbered.any():
        ids = np.full(int(numbered.sum()), series.id)
        note_times(conn, ids, records.seq[numbered], records.time_us[numbered])
    if added:
        conn.execute(_COUNT, (added, first_us, last_us, series.id))
    return added


def load_candle_rows(conn: psycopg.Connection[Any], topic: Topic, candles: Sequence[CandleRow]) -> int:
    """Store the candles that are not there, of days whose records are gone; return how many. Blocking."""
    series = lock_series(conn, {topic})[topic]
    columns = [list(column) for column in zip(*candles, strict=True)] or [[] for _ in CandleRow._fields]
    return conn.execute(_ADD_CANDLES, [series.id, *columns]).rowcount


def _copy(conn: psycopg.Connection[Any], rows: Rows, into: str) -> None:
    statement = sql.SQL(_COPY).format(into=sql.Identifier(into), columns=_columns(rows))
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows.copy_data)


def _add_missing(conn: psycopg.Connection[Any], rows: Rows) -> int:
    """Add the rows whose key is not stored; return how many."""
    table = rows.stored.table
    incoming = f"restored_{table}"
    names = {
        "table": sql.Identifier(table),
        "incoming": sql.Identifier(incoming),
        "columns": _columns(rows),
    }
    conn.execute(sql.SQL("drop table if exists pg_temp.{incoming}").format(**names))
    conn.execute(sql.SQL("create temporary table {incoming} (like {table}) on commit drop").format(**names))
    _copy(conn, rows, incoming)
    row = conn.execute(sql.SQL(_ADD).format(**names)).fetchone()
    return 0 if row is None else int(row[0])


def _columns(rows: Rows) -> sql.Composed:
    names = (*_COPIED, *(column.name for column in rows.stored.columns))
    return sql.SQL(", ").join(map(sql.Identifier, names))
