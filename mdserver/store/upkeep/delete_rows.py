"""Delete what a bad feed or a wrong import wrote: rows, candles, ledger entries and metadata together.

One transaction per day of data, so that a large range neither holds locks for long nor fills the write-ahead log; after
an interruption the same call continues. ``last_seq`` stays as it is, so that no sequence number is used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg import sql

from ...kinds import BY_NAME
from ...model import DELETED, TIMEFRAMES, Gap
from ..connection.database import Database, Engine
from ..gap_ledger import write_gaps
from ..rows import MAX_TIME_US
from ..scan import timestamp
from ..series import SeriesInfo, list_series, lock_series
from .candle_diff import DAY_US

__all__ = ["Deletion", "Range", "count_rows", "delete_rows"]


class Range(Struct, frozen=True):
    """What to delete: of a broker one symbol or all, the whole days ``[first_us, end_us)`` or all."""

    broker: str
    symbol: str | None = None
    first_us: int = 0
    end_us: int = MAX_TIME_US


class Deletion(Struct):
    """What would be or was deleted from a series: rows, candles, hours of the import ledger."""

    broker: str
    symbol: str
    type: str
    rows: int = 0
    candles: int = 0
    hours: int = 0

    @property
    def total(self) -> int:
        """Rows, candles and hours together."""
        return self.rows + self.candles + self.hours


# Literals, not parameters: from parameters TimescaleDB derives no filter and decompresses all rows of the series in the
# chunk.
_OF_ROWS: LiteralString = "from {table} where series_id = {series} and time >= {first} and time < {end}"
_OF_CANDLES: LiteralString = "from candles where series_id = {series} and time >= {first} and time < {end}"
_OF_HOURS: LiteralString = (
    "from import_ledger where series_id = {series} and hour >= {first} and hour < {end}"
)

_LIVE: LiteralString = f"""select count(*), max(seq), (extract(epoch from min(time)) * 1000000)::bigint,
    (extract(epoch from max(time)) * 1000000)::bigint {_OF_ROWS} and seq > 0"""  # noqa: S608

_OF_VENUE: LiteralString = (
    "from venue_candles where series_id = {series} and time >= {first} and time < {end}"
)

_NEXT: LiteralString = """select (extract(epoch from min(time)) * 1000000)::bigint from (
    (select time from {table} where series_id = {series} and time >= {first} and time < {end} order by time limit 1)
    union all
    (select (select time from candles where series_id = {series} and candles.timeframe = each.timeframe
        and time >= {first} and time < {end} order by time limit 1) from unnest({timeframes}) as each(timeframe))
    union all
    (select hour from import_ledger where series_id = {series} and hour >= {first} and hour < {end}
        order by hour limit 1)) as there"""

_CORRECT: LiteralString = """update series set hist_v = hist_v + 1, live_v = live_v + 1, row_count = row_count - {gone},
        earliest = (select time from {table} where series_id = series.id order by time limit 1),
        latest = (select time from {table} where series_id = series.id order by time desc limit 1)
    where id = {series}"""

_NO_LIMIT = "select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)"


async def count_rows(database: Database, what: Range) -> list[Deletion]:
    """Return what there is to delete, by series; series with nothing to delete are left out."""
    counted = []
    for series in await _series(database, what):

        def work(conn: psycopg.Connection[Any], series: SeriesInfo = series) -> Deletion:
            names = _names(series, what.first_us, what.end_us)
            counts = [
                conn.execute(sql.SQL("select count(*) " + of).format(**names)).fetchone()
                for of in (_OF_ROWS, _OF_CANDLES, _OF_HOURS)
            ]
            return Deletion(series.broker, series.symbol, series.type, *(row[0] for row in counts if row))

        counted.append(await database.run(work))
    return [one for one in counted if one.total]


async def delete_rows(
    database: Database, what: Range, *, advance: Callable[[int], None] = lambda rows: None
) -> list[Deletion]:
    """Delete the range; return what was deleted, by series. ``advance`` is called with the number of rows of each day.

    It may be cancelled at any time: days are deleted completely or not at all. Raises :class:`StoreUnavailable`.
    """
    done = []
    for series in await _series(database, what):
        deletion = Deletion(series.broker, series.symbol, series.type)
        place: int | None = what.first_us
        while place is not None:

            def step(
                conn: psycopg.Connection[Any],
                series: SeriesInfo = series,
                place: int = place,
                deletion: Deletion = deletion,
            ) -> tuple[int | None, Deletion]:
                return _delete_day(conn, database.engine, series, place, what.end_us)

            place, gone = await database.run(step)
            deletion.rows += gone.rows
            deletion.candles += gone.candles
            deletion.hours += gone.hours
            advance(gone.rows)
        done.append(deletion)
    return [one for one in done if one.total]


async def _series(database: Database, what: Range) -> list[SeriesInfo]:
    found = await database.run(lambda conn: list_series(conn, what.symbol))
    return [one for one in found if one.broker == what.broker and BY_NAME[one.type].stored is not None]


def _delete_day(
    conn: psycopg.Connection[Any], engine: Engine, series: SeriesInfo, place_us: int, end_us: int
) -> tuple[int | None, Deletion]:
    """Delete the first day from ``place_us`` on that holds anything; return where to continue (None: done) and what
    was deleted. Records that the stream had leave a gap.
    """
    gone = Deletion(series.broker, series.symbol, series.type)
    row = conn.execute(sql.SQL(_NEXT).format(**_names(series, place_us, end_us))).fetchone()
    if row is None or row[0] is None:
        return None, gone
    day_us = row[0] // DAY_US * DAY_US
    stop_us = min(day_us + DAY_US, end_us)
    conn.execute("set local statement_timeout = 0")
    if engine == "timescaledb":
        conn.execute(_NO_LIMIT)
    # The lock of the day's import before the lock of the series, in the order in which an import takes them: else the
    # two could deadlock.
    conn.execute("select pg_advisory_xact_lock(%s, %s)", [series.id, day_us // DAY_US])
    lock_series(conn, {series.topic})
    names = _names(series, max(day_us, place_us), stop_us)
    live = conn.execute(sql.SQL(_LIVE).format(**names)).fetchone() if series.last_seq else None
    gone.rows, gone.candles, gone.hours = (
        conn.execute(sql.SQL("delete " + of).format(**names)).rowcount
        for of in (_OF_ROWS, _OF_CANDLES, _OF_HOURS)
    )
    if live is not None and live[0]:  # who resumes over it, or reads the day's candles, is to learn of it
        count, last_seq, first_us, last_us = live
        gap = Gap(series.topic, first_us, last_us, DELETED, count, "permanent")
        write_gaps(conn, [(series.id, last_seq, gap)])
    conn.execute(sql.SQL("delete " + _OF_VENUE).format(**names))
    conn.execute(sql.SQL(_CORRECT).format(**names, gone=sql.Literal(gone.rows)))
    return stop_us, gone


def _names(series: SeriesInfo, first_us: int, end_us: int) -> dict[str, sql.Composable]:
    stored = BY_NAME[series.type].stored
    assert stored is not None  # noqa: S101 - see _series
    return {
        "table": sql.Identifier(stored.table),
        "series": sql.Literal(series.id),
        "first": timestamp(first_us),
        "end": timestamp(end_us),
        "timeframes": sql.Literal(list(TIMEFRAMES.values())),
    }
