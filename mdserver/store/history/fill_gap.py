"""Records that a gap had swallowed: stored beside live ones, each once, with their candles, in one transaction.

They have no number of the stream: clients that go on by ``seq`` are not sent them, for the stream has gone on without
them. Their ``seq`` in the table is negative, :data:`FIRST_SEQ` and up for each microsecond, so that the key
(series, time, seq) tells them from live ones and the order of the venue is kept within a microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg import sql

from ...kinds import KINDS
from ...model import US_PER_S, Published, Record, Topic
from ..recompute_candles import recompute
from ..rows import rows_of, storage_fault
from ..scan import timestamp
from ..series import lock_series
from ..tables.partitions import ensure_partitions

__all__ = ["FIRST_SEQ", "add_records"]

FIRST_SEQ = -1_000_000

_NEAR_US = US_PER_S
"""The times of one trade in the stream and in the venue's history differ by less."""

_LOAD: LiteralString = "copy {incoming} ({columns}) from stdin (format binary)"

# A trade is the same if its id is; without an id, or for a tick, if all values are the same at the same time.
_SAME: dict[str, LiteralString] = {
    "trades": """(known.trade_id = new.trade_id
            and known.time between new.time - interval '1 s' and new.time + interval '1 s')
        or ((known.trade_id is null or new.trade_id is null) and known.time = new.time
            and known.price = new.price and known.size = new.size)""",
    "ticks": """known.time = new.time and known.bid = new.bid and known.ask = new.ask""",
}

# The bounds are literals, so that other partitions and chunks are left alone.
_ADD: LiteralString = """insert into {table} (time, seq, series_id, {own})
    select time, coalesce(last, {first_seq} - 1) + row_number() over (partition by time order by seq), series_id, {own}
    from (
        select new.*, (select max(seq) from {table} known where known.series_id = {series} and known.time = new.time
            and known.seq < 0 and known.time >= {first} and known.time <= {last}) as last
        from {incoming} new where not exists (
            select from {table} known where known.series_id = {series}
            and known.time >= {first} and known.time <= {last} and ({same}))) fresh
    returning (extract(epoch from time) * 1000000)::bigint"""

_COUNT = """update series set row_count = row_count + %s, hist_v = hist_v + 1,
        earliest = least(earliest, timestamptz 'epoch' + %s * interval '1 microsecond'),
        latest = greatest(latest, timestamptz 'epoch' + %s * interval '1 microsecond')
    where id = %s"""


def add_records(conn: psycopg.Connection[Any], topic: Topic, records: Sequence[Record]) -> list[int]:
    """Store records of a topic that were missed; return the times of those that were not there, in microseconds.

    ``records`` are of the topic's kind and in the order of the venue. Candles of every timeframe follow. Runs inside
    the caller's transaction; blocking. Raises ValueError for a record that cannot be stored, or of a kind that is not.
    """
    if not records:
        return []
    kind = KINDS[type(records[0])]
    stored = kind.stored
    if stored is None or stored.table not in _SAME:
        raise ValueError(f"{kind.name}: records of this kind cannot be added later")
    batch = [Published(topic, number, record) for number, record in enumerate(records)]
    for published in batch:
        if fault := storage_fault(published):
            raise ValueError(f"{published.record}: {fault}")
    times = np.array([record.time_us for record in records], np.int64)
    for month_us in (
        np.unique(times.astype("M8[us]").astype("M8[M]")).astype("M8[us]").astype(np.int64).tolist()
    ):
        ensure_partitions(conn, stored.table, month_us, month_us)
    series = lock_series(conn, {topic})[topic]
    rows = rows_of(kind, batch, [0] * len(batch), [series.id], received=False)
    names = {"incoming": sql.Identifier(f"missed_{stored.table}"), "table": sql.Identifier(stored.table)}
    own = [column.name for column in stored.columns]
    conn.execute(
        sql.SQL("create temporary table if not exists {incoming} (like {table}) on commit drop").format(
            **names
        )
    )
    conn.execute(sql.SQL("truncate {incoming}").format(**names))
    load = sql.SQL(_LOAD).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, ("time", "seq", "series_id", "received", *own))),
        **names,
    )
    with conn.cursor() as cursor, cursor.copy(load) as copy:
        copy.write(rows.copy_data)
    added = conn.execute(
        sql.SQL(_ADD).format(
            own=sql.SQL(", ").join(map(sql.Identifier, own)),
            series=sql.Literal(series.id),
            first_seq=sql.Literal(FIRST_SEQ),
            first=timestamp(int(times.min()) - _NEAR_US),
            last=timestamp(int(times.max()) + _NEAR_US),
            same=sql.SQL(_SAME[stored.table]),
            **names,
        )
    ).fetchall()
    if not added:
        return []
    at = np.array([time_us for (time_us,) in added], np.int64)
    recompute(conn, stored.table, np.full(len(at), series.id, np.int64), at)
    conn.execute(_COUNT, (len(at), int(at.min()), int(at.max()), series.id))
    found: list[int] = at.tolist()
    return found
