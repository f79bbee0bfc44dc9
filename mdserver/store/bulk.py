"""Whole hours of ticks into the database: rows, candles, ledger and metadata in one transaction.

Nothing here holds more than one decoded hour: hours are decoded as they are copied, while the server is busy with
those before, and only their minutes are kept for the candles. Only where the server compresses what is copied are the
rows of a load made before its transaction: two loads would wait there for each other's new chunks, and their decoding
would take longer than the compressing.

Candles up to one hour lie within the hour that was imported, so they are computed from its ticks alone. The coarser
ones are folded in SQL from the stored hours of their bucket, whoever stored those and when: hence every order of
imports ends in the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, LiteralString

import attrs
import numpy as np
import psycopg
from msgspec import Struct
from psycopg import sql

from ..candles import Candles, Ints, all_timeframes, merge
from ..errors import BadMessage, Rejected
from ..market_hours import HOUR_US
from ..model import TIMEFRAMES, US_PER_S, Topic
from . import direct_compress
from .binary import Float8Array, Int4Array, Int8Array, TimeArray, to_postgres_us
from .hours import FetchedHour, HourResult, Status, fault, minutes_of
from .late import recompute_coarser
from .ledger import LedgerHour, read_hours, write_hours
from .migrations import Engine
from .partitions import ensure_partitions
from .scan import timestamp
from .series import SeriesInfo, lock_series
from .tick_copy import TickCopy, copy_data

__all__ = ["Ready", "load_hours", "make_ready", "open_series", "prepare"]

HOUR_S = TIMEFRAMES["1h"]
_DAY_US = 24 * HOUR_US
_MINUTE_S = TIMEFRAMES["1m"]
_WITHIN_HOUR = tuple(seconds for seconds in TIMEFRAMES.values() if seconds <= HOUR_S)

_NOT_KNOWN = "the source knows nothing of this hour, nor of any other hour of this symbol so far"


_INSERT_CANDLES: LiteralString = """insert into candles as stored
    (series_id, timeframe, time, open, high, low, close, volume, row_count)
    select %s, timeframe, time, open, high, low, close, whole + fraction * 0.00000001, row_count
    from unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s)
        as new(timeframe, time, open, high, low, close, whole, fraction, row_count)
    on conflict (series_id, timeframe, time) do update set
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, row_count = excluded.row_count"""

# "order by" makes the planner walk the key, also while a new partition has no statistics
_HOURS_WITH_ROWS = """select (extract(epoch from hour) * 1000000)::bigint from unnest(%s) as wanted(hour)
    cross join lateral (
        select from ticks where series_id = %s and time >= hour and time < hour + interval '1 hour'
        order by time, seq limit 1) as row"""

# With literals: of parameters TimescaleDB makes no filter, and decompresses all that the series has in the chunk.
_DELETE_HOUR: LiteralString = """delete from ticks
    where series_id = {series} and time >= {first} and time < {end}"""

_DELETE_CANDLES = """delete from candles using unnest(%s, %s) as gone(timeframe, time)
    where series_id = %s and candles.timeframe = gone.timeframe and candles.time = gone.time"""

_DELETE_HOUR_CANDLES = """delete from candles using unnest(%s) as gone(hour)
    where series_id = %s and timeframe = any(%s) and time >= hour and time < hour + interval '1 hour'"""

_ADD = """update series set row_count = row_count + %s, hist_v = hist_v + 1,
        earliest = least(earliest, (%s)[1]), latest = greatest(latest, (%s)[1])
    where id = %s"""

_COUNT_REVISED = """update series set row_count = row_count + %s, hist_v = hist_v + 1,
        earliest = (select time from ticks where series_id = series.id order by time limit 1),
        latest = (select time from ticks where series_id = series.id order by time desc limit 1)
    where id = %s"""


def open_series(conn: psycopg.Connection[Any], source: str, symbol: str) -> SeriesInfo:
    """Return the series for a source's ticks of a symbol, made if there is none.

    Raises Rejected where live records are stored under this name: replacing an hour would remove them.
    """
    topic = Topic(source, symbol, "tick")
    series = lock_series(conn, {topic})[topic]
    if series.last_seq:
        raise Rejected(
            f"{source} {symbol} holds live records, which an import would replace: "
            "give the source in `history` a name that no broker has"
        )
    return series


class Ready(Struct, frozen=True):
    """An hour with ticks as it is copied, and what the rest of its load needs of it."""

    count: int
    first_us: int
    last_us: int
    minutes: Candles
    rows: bytes


def prepare(
    conn: psycopg.Connection[Any], series: SeriesInfo, engine: Engine, hours: Sequence[FetchedHour]
) -> list[FetchedHour]:
    """Make the partitions for these hours, in a transaction of its own; return those to make ready before the load.

    Making one locks out whoever wants to make another until the transaction ends: a load is too long for that.
    """
    starts = [hour.hour_us for hour in hours]
    _prepare_months(conn, starts)
    if not direct_compress.begin(conn, engine):
        return []
    known = {hour_us: one.checksum for hour_us, one in read_hours(conn, series.id, starts).items()}
    return [hour for hour in hours if hour.kind == "data" and known.get(hour.hour_us) != hour.checksum]


def make_ready(series: SeriesInfo, hours: Sequence[FetchedHour]) -> dict[int, Ready]:
    """Return those of these hours that have ticks and nothing wrong with them, by their starts. Takes its time."""
    ready: dict[int, Ready] = {}
    for hour in hours:
        # what is wrong with an hour comes up again when it is loaded, and is recorded then
        with suppress(BadMessage):
            if (one := _ready(series.id, hour)) is not None:
                ready[hour.hour_us] = one
    return ready


def _ready(series_id: int, hour: FetchedHour) -> Ready | None:
    """Decode an hour; None if it has no ticks. Raises BadMessage."""
    ticks = hour.decode()
    if problem := fault(ticks, hour.hour_us):
        raise BadMessage(f"{hour.origin}: {problem}")
    if not len(ticks.time_us):
        return None
    first_us, last_us = int(ticks.time_us[0]), int(ticks.time_us[-1])
    return Ready(len(ticks.time_us), first_us, last_us, minutes_of(ticks), copy_data(ticks, series_id))


def load_hours(
    conn: psycopg.Connection[Any],
    series: SeriesInfo,
    engine: Engine,
    hours: Sequence[FetchedHour],
    ready: dict[int, Ready] | None = None,
) -> list[HourResult]:
    """Bring the database up to date with these hours; runs inside the caller's transaction.

    Hours whose checksum the ledger knows are not decoded, nor those that are ``ready``. An hour that does not decode
    is recorded as failed, unless a good one is stored: that stays. Blocking.
    """
    hours = sorted(hours, key=lambda hour: hour.hour_us)
    if not hours:
        return []
    load = _Load(conn, series, engine, ready or {})
    load.begin(hours)
    with load.copy:
        for hour in hours:
            load.take(hour)
        load.copy.close()
    load.finish()
    return load.results


@attrs.define(eq=False)
class _Load:
    """One transaction on its way."""

    conn: psycopg.Connection[Any]
    series: SeriesInfo
    engine: Engine
    ready: dict[int, Ready]
    results: list[HourResult] = attrs.Factory(list)
    known: dict[int, LedgerHour] = attrs.Factory(dict)
    stored: set[int] = attrs.Factory(set)
    """Hours that have rows, whatever the ledger says."""
    symbol_known: bool = False
    entries: list[LedgerHour] = attrs.Factory(list)
    minutes: list[Candles] = attrs.Factory(list)
    removed: list[int] = attrs.Factory(list)
    touched: list[int] = attrs.Factory(list)
    added_rows: int = 0
    removed_rows: int = 0
    first_us: int = 0
    last_us: int = 0
    copy: TickCopy = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        compressing = direct_compress.begin(self.conn, self.engine)
        self.copy = TickCopy(self.conn, self.engine, compressing=compressing)

    def begin(self, hours: Sequence[FetchedHour]) -> None:
        starts = [hour.hour_us for hour in hours]
        _prepare_months(self.conn, starts)
        # Whoever imports the same days waits here, then finds in the ledger what we did.
        days = sorted({start // _DAY_US for start in starts})
        self.conn.execute(
            "select pg_advisory_xact_lock(%s, day) from unnest(%s) as day", (self.series.id, days)
        )
        self.known = read_hours(self.conn, self.series.id, starts)
        rows = self.conn.execute(_HOURS_WITH_ROWS, (_times(starts), self.series.id)).fetchall()
        self.stored = {hour_us for (hour_us,) in rows}
        self.symbol_known = bool(self.series.row_count or self.stored) or any(
            hour.kind in ("data", "empty") for hour in hours
        )

    def take(self, hour: FetchedHour) -> None:
        """Handle one hour; they come in the order of time."""
        if hour.kind == "failed":
            self._failed(hour, hour.cause)
        elif hour.kind == "missing" and not (hour.settled and self.symbol_known):
            self._failed(hour, hour.cause or _NOT_KNOWN)
        elif self._is_unchanged(hour):
            self._unchanged(hour)
        elif hour.kind == "data":
            self._data(hour)
        else:
            self._empty(hour)

    def finish(self) -> None:
        self._update_candles()
        write_hours(self.conn, self.series.id, self.entries)
        if self.added_rows or self.removed_rows:
            self._update_series()

    # -- what an hour may be ---------------------------------------------------------------------------

    def _is_unchanged(self, hour: FetchedHour) -> bool:
        known = self.known.get(hour.hour_us)
        if known is None or known.outcome == "failed":
            return False
        if hour.kind == "data":
            return known.outcome == "ok" and known.checksum == hour.checksum and hour.hour_us in self.stored
        return known.outcome == "empty" and hour.hour_us not in self.stored

    def _unchanged(self, hour: FetchedHour) -> None:
        known = self.known[hour.hour_us]
        if known.settled != hour.settled:
            self._record(hour, "ok" if hour.kind == "data" else "empty", known.row_count)
        self.results.append(HourResult(hour.hour_us, "unchanged", known.row_count))

    def _failed(self, hour: FetchedHour, cause: str) -> None:
        known = self.known.get(hour.hour_us)
        if known is None or known.outcome == "failed":
            self.entries.append(
                LedgerHour(
                    hour.hour_us, "failed", 0, hour.checksum, hour.service, hour.origin, cause, settled=False
                )
            )
        kept = 0 if known is None else known.row_count
        self.results.append(HourResult(hour.hour_us, "failed", kept, cause))

    def _empty(self, hour: FetchedHour) -> None:
        self._remove(hour.hour_us)
        self._record(hour, "empty", 0)
        self.results.append(HourResult(hour.hour_us, "empty"))

    def _data(self, hour: FetchedHour) -> None:
        try:
            ready = self.ready.get(hour.hour_us) or _ready(self.series.id, hour)
        except BadMessage as error:
            self._failed(hour, str(error))
            return
        count = ready.count if ready else 0
        replaced = self._remove(hour.hour_us)
        if ready:
            self.copy.write(hour.hour_us, ready.rows)
            self.minutes.append(ready.minutes)
            self.touched.append(hour.hour_us)
            self.first_us = self.first_us or ready.first_us
            self.last_us = ready.last_us
            self.added_rows += count
        self._record(hour, "ok" if count else "empty", count)
        status: Status = "replaced" if replaced else "added" if count else "empty"
        self.results.append(HourResult(hour.hour_us, status, count))

    def _remove(self, hour_us: int) -> bool:
        """Delete what is stored of an hour; return whether there was something."""
        if hour_us not in self.stored:
            return False
        self.copy.close()
        statement = sql.SQL(_DELETE_HOUR).format(
            series=sql.Literal(self.series.id), first=timestamp(hour_us), end=timestamp(hour_us + HOUR_US)
        )
        self.removed_rows += self.conn.execute(statement).rowcount
        self.removed.append(hour_us)
        self.touched.append(hour_us)
        return True

    def _record(self, hour: FetchedHour, outcome: Literal["ok", "empty"], row_count: int) -> None:
        self.entries.append(
            LedgerHour(
                hour.hour_us,
                outcome,
                row_count,
                hour.checksum if outcome == "ok" else "",
                hour.service,
                hour.origin,
                hour.cause,
                settled=hour.settled,
            )
        )

    # -- the rest of the transaction -------------------------------------------------------------------

    def _update_candles(self) -> None:
        if not self.touched:
            return
        touched = np.unique(np.array(self.touched, np.int64))
        if self.removed:
            self._delete_candles(self.removed)
        if self.minutes:
            levels = all_timeframes(merge(self.minutes, _MINUTE_S))
            self._insert_candles({seconds: levels[seconds] for seconds in _WITHIN_HOUR})
        recompute_coarser(self.conn, np.full(len(touched), self.series.id), touched, HOUR_S)

    def _delete_candles(self, hours_us: Sequence[int]) -> None:
        parameters = (_times(hours_us), self.series.id, list(_WITHIN_HOUR))
        self.conn.execute(_DELETE_HOUR_CANDLES, parameters)
        coarser = [seconds for seconds in TIMEFRAMES.values() if seconds > HOUR_S]
        buckets = sorted({(s, hour // (s * US_PER_S) * s * US_PER_S) for hour in hours_us for s in coarser})
        timeframes = Int4Array.of([seconds for seconds, _ in buckets])
        times = _times([time_us for _, time_us in buckets])
        self.conn.execute(_DELETE_CANDLES, (timeframes, times, self.series.id))

    def _insert_candles(self, levels: dict[int, Candles]) -> None:
        candles = Candles._make(np.concatenate(column) for column in zip(*levels.values(), strict=True))
        parameters = (
            self.series.id,
            Int4Array.of(np.repeat(list(levels), [len(level.time) for level in levels.values()])),
            TimeArray.of(to_postgres_us(candles.time * US_PER_S)),
            *(Float8Array.of(column) for column in candles[2:6]),
            *(Int8Array.of(column) for column in candles[6:]),
        )
        self.conn.execute(_INSERT_CANDLES, parameters)

    def _update_series(self) -> None:
        """Count what changed. Only here is the series locked, so that two loads of it run side by side."""
        net = self.added_rows - self.removed_rows
        if not self.removed_rows:
            self.conn.execute(_ADD, (net, _times([self.first_us]), _times([self.last_us]), self.series.id))
            return
        # The lock comes first: the ends must be read after the commit of whoever held it.
        self.conn.execute("select from series where id = %s for no key update", [self.series.id])
        self.conn.execute(_COUNT_REVISED, (net, self.series.id))


def _prepare_months(conn: psycopg.Connection[Any], hours_us: Sequence[int]) -> None:
    for month in _months(np.array(hours_us, np.int64)):
        ensure_partitions(conn, "ticks", month, month)


def _months(times_us: Ints) -> list[int]:
    """Return the first instants of the months that these times are in, in microseconds."""
    months: list[int] = (
        np.unique(times_us.astype("M8[us]").astype("M8[M]")).astype("M8[us]").astype(np.int64).tolist()
    )
    return months


def _times(times_us: Sequence[int]) -> TimeArray:
    return TimeArray.of(to_postgres_us(np.array(times_us, np.int64)))
