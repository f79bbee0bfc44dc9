"""Whole hours of ticks into the database: rows, candles, ledger and metadata in one transaction.

Nothing here holds more than a few decoded hours: the next ones are made ready in a thread while one is copied, and
only their minutes are kept for the candles.

Of a month that nobody has stored anything of, the rows go into a table of its own first, which becomes the month's
partition at the end: building the key over all rows is cheaper than adding each of them to it.

Candles up to one hour lie within the hour that was imported, so they are computed from its ticks alone. The coarser
ones are folded in SQL from the stored hours of their bucket, whoever stored those and when: hence every order of
imports ends in the same table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import datetime
from time import time_ns
from typing import Any, Literal, LiteralString

import attrs
import numpy as np
import psycopg
from msgspec import Struct
from psycopg import sql

from ...candles import Candles, all_timeframes, merge
from ...errors import BadMessage, Rejected
from ...market_hours import HOUR_US
from ...model import TIMEFRAMES, US_PER_S, Topic
from ..candle_table import delete_candles, put_candles
from ..connection.database import Engine
from ..pg_binary import TimeArray, to_postgres_us
from ..recompute_candles import recompute_coarser
from ..scan import timestamp
from ..series import SeriesInfo, lock_series
from ..tables import compressed_loading as direct_compress
from ..tables.partitions import add_key, attach_partition, create_partitions
from .hour import BidAt, FetchedHour, HourResult, Status, hour_fault, minutes_of, price_leap
from .import_ledger import LedgerHour, read_hours, write_hours
from .tick_copy import TickCopy, copy_data

__all__ = ["load_hours", "open_series"]

READY_AHEAD = 4
"""Hours that are ready before they are copied."""

HOUR_S = TIMEFRAMES["1h"]
_DAY_US = 24 * HOUR_US
_MINUTE_S = TIMEFRAMES["1m"]
_WITHIN_HOUR = tuple(seconds for seconds in TIMEFRAMES.values() if seconds <= HOUR_S)

_NOT_KNOWN = "the source knows nothing of this hour, nor of any other hour of this symbol so far"


# "order by" makes the planner walk the key, also while a new partition has no statistics
_HOURS_WITH_ROWS = """select (extract(epoch from hour) * 1000000)::bigint from unnest(%s) as wanted(hour)
    cross join lateral (
        select from ticks where series_id = %s and time >= hour and time < hour + interval '1 hour'
        order by time, seq limit 1) as row"""

_LAST_BIDS = """select (extract(epoch from hour) * 1000000)::bigint, (extract(epoch from time) * 1000000)::bigint,
        bid
    from unnest(%s) as wanted(hour) cross join lateral (
        select time, bid from ticks
        where series_id = %s and time >= hour - interval '7 days' and time < hour
        order by time desc, seq desc limit 1) as row"""

_FIRST_BID = """select (extract(epoch from time) * 1000000)::bigint, bid from ticks
    where series_id = %s and time >= (%s::timestamptz[])[1] and time < (%s::timestamptz[])[1] + interval '1 hour'
    order by time, seq limit 1"""

# With literals: of parameters TimescaleDB makes no filter, and decompresses all that the series has in the chunk.
_DELETE_HOUR: LiteralString = """delete from ticks
    where series_id = {series} and time >= {first} and time < {end}"""

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


class _Ready(Struct, frozen=True):
    """An hour as it is copied, and what the rest of its load needs of it."""

    count: int
    first: BidAt
    last: BidAt
    minutes: Candles
    rows: bytes


def _make_ready(series_id: int, hour: FetchedHour) -> _Ready | None:
    """Decode an hour; None if it has no ticks. Raises BadMessage."""
    ticks = hour.decode()
    if problem := hour_fault(ticks, hour.hour_us, time_ns() // 1_000):
        raise BadMessage(f"{hour.origin}: {problem}")
    count = len(ticks.time_us)
    if not count:
        return None
    first, last = (BidAt(int(ticks.time_us[row]), float(ticks.bid[row])) for row in (0, -1))
    return _Ready(count, first, last, minutes_of(ticks), copy_data(ticks, series_id))


def load_hours(
    conn: psycopg.Connection[Any],
    series: SeriesInfo,
    engine: Engine,
    hours: Sequence[FetchedHour],
) -> list[HourResult]:
    """Bring the database up to date with these hours; runs inside the caller's transaction.

    Hours whose checksum the ledger knows are not decoded. An hour that does not decode
    is recorded as failed, unless a good one is stored: that stays. Blocking.
    """
    hours = sorted(hours, key=lambda hour: hour.hour_us)
    if not hours:
        return []
    load = _Load(conn, series, engine)
    load.begin(hours)
    with load.copy, ThreadPoolExecutor(1, "decode") as decoder:
        for hour, ready in _ready_ahead(decoder, series.id, hours, load.is_unchanged):
            load.take(hour, ready)
        load.copy.close()
    load.finish()
    return load.results


@attrs.define(eq=False)
class _Load:
    """One transaction on its way."""

    conn: psycopg.Connection[Any]
    series: SeriesInfo
    engine: Engine
    results: list[HourResult] = attrs.Factory(list)
    known: dict[int, LedgerHour] = attrs.Factory(dict)
    stored: set[int] = attrs.Factory(set)
    """Hours that have rows, whatever the ledger says."""
    symbol_known: bool = False
    new_months: list[datetime] = attrs.Factory(list)
    before: dict[int, BidAt] = attrs.Factory(dict)
    """What is stored of the week before those hours that do not follow one of ours."""
    last: BidAt | None = None
    """The price that the next hour must be in keeping with."""
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
        if (
            self.engine == "timescaledb"
        ):  # its default would refuse to replace more than 100,000 compressed ticks
            self.conn.execute(
                "select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)"
            )
        self.new_months = create_partitions(self.conn, "ticks", starts)
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
        given = set(starts) - self.stored
        begins = [start for start in starts if start - HOUR_US not in given]
        bids = self.conn.execute(_LAST_BIDS, (_times(begins), self.series.id)).fetchall()
        self.before = {hour_us: BidAt(time_us, bid) for hour_us, time_us, bid in bids}

    def take(self, hour: FetchedHour, coming: Future[_Ready | None] | None) -> None:
        """Handle one hour, in the order of time; ``coming`` are its ticks, unless it is unchanged or has none."""
        before = self.before.get(hour.hour_us)
        if before and (self.last is None or self.last.time_us // HOUR_US < before.time_us // HOUR_US):
            self.last = before
        if hour.kind == "failed":
            self._failed(hour, hour.cause)
        elif hour.kind in ("missing", "accepted") and not (hour.settled and self.symbol_known):
            self._failed(hour, hour.cause or _NOT_KNOWN)
        elif hour.kind == "missing" or (hour.kind == "accepted" and hour.hour_us in self.stored):
            self._not_imported(hour, "denied", hour.cause)
        elif self.is_unchanged(hour):
            self._unchanged(hour)
        elif coming is not None:
            self._data(hour, coming)
        else:
            self._empty(hour)

    def finish(self) -> None:
        for month in self.new_months:
            add_key(self.conn, "ticks", month)
        self._update_candles()
        write_hours(self.conn, self.series.id, self.entries)
        if self.added_rows or self.removed_rows:
            self._update_series()
        # last, since until the commit no other transaction can attach a partition
        for month in self.new_months:
            attach_partition(self.conn, "ticks", month)

    # -- what an hour may be ---------------------------------------------------------------------------

    def is_unchanged(self, hour: FetchedHour) -> bool:
        """Tell whether the ledger and the table have this hour as it was fetched."""
        known = self.known.get(hour.hour_us)
        if known is None or known.outcome in ("denied", "failed"):
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
        self._not_imported(hour, "failed", cause)

    def _not_imported(self, hour: FetchedHour, outcome: Literal["denied", "failed"], cause: str) -> None:
        """Note why there is nothing new; what is stored of the hour stays, and so does what the ledger says of it."""
        known = self.known.get(hour.hour_us)
        if known is None or known.outcome in ("denied", "failed"):
            self.entries.append(
                LedgerHour(
                    hour.hour_us, outcome, 0, hour.checksum, hour.service, hour.origin, cause, settled=False
                )
            )
        kept = 0 if known is None else known.row_count
        self.results.append(HourResult(hour.hour_us, outcome, kept, cause))

    def _empty(self, hour: FetchedHour) -> None:
        self._remove(hour.hour_us)
        self._record(hour, "empty", 0)
        self.results.append(HourResult(hour.hour_us, "empty"))

    def _data(self, hour: FetchedHour, coming: Future[_Ready | None]) -> None:
        try:
            ready = coming.result()
            if ready and (problem := self._wrong_scale(ready.first, hour.hour_us)):
                raise BadMessage(f"{hour.origin}: {problem}")
        except BadMessage as error:
            self._failed(hour, str(error))
            return
        count = ready.count if ready else 0
        replaced = self._remove(hour.hour_us)
        if ready:
            self.last = ready.last
            self.copy.write(hour.hour_us, ready.rows)
            self.minutes.append(ready.minutes)
            self.touched.append(hour.hour_us)
            self.first_us = self.first_us or ready.first.time_us
            self.last_us = ready.last.time_us
            self.added_rows += count
        self._record(hour, "ok" if count else "empty", count)
        status: Status = "replaced" if replaced else "added" if count else "empty"
        self.results.append(HourResult(hour.hour_us, status, count))

    def _wrong_scale(self, first: BidAt, hour_us: int) -> str | None:
        """Compare with the price before, or with what it would replace: no revision moves a price so far."""
        if hour_us not in self.stored:
            return None if self.last is None else price_leap(first, self.last)
        self.copy.close()
        row = self.conn.execute(_FIRST_BID, (self.series.id, _times([hour_us]), _times([hour_us]))).fetchone()
        problem = None if row is None else price_leap(first, BidAt(*row))
        return (
            problem and f"{problem}; to store it all the same, take back what is stored: mdserver run delete"
        )

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
            put_candles(
                self.conn, self.series.id, {seconds: levels[seconds] for seconds in _WITHIN_HOUR}, "replace"
            )
        recompute_coarser(self.conn, np.full(len(touched), self.series.id), touched, HOUR_S)

    def _delete_candles(self, hours_us: Sequence[int]) -> None:
        parameters = (_times(hours_us), self.series.id, list(_WITHIN_HOUR))
        self.conn.execute(_DELETE_HOUR_CANDLES, parameters)
        coarser = [seconds for seconds in TIMEFRAMES.values() if seconds > HOUR_S]
        buckets = sorted({(s, hour // (s * US_PER_S) * s * US_PER_S) for hour in hours_us for s in coarser})
        delete_candles(self.conn, self.series.id, *np.array(buckets, np.int64).T)

    def _update_series(self) -> None:
        """Count what changed. Only here is the series locked, so that two loads of it run side by side."""
        net = self.added_rows - self.removed_rows
        if not self.removed_rows:
            self.conn.execute(_ADD, (net, _times([self.first_us]), _times([self.last_us]), self.series.id))
            return
        # The lock comes first: the ends must be read after the commit of whoever held it.
        self.conn.execute("select from series where id = %s for no key update", [self.series.id])
        self.conn.execute(_COUNT_REVISED, (net, self.series.id))


def _ready_ahead(
    decoder: Executor,
    series_id: int,
    hours: Iterable[FetchedHour],
    is_unchanged: Callable[[FetchedHour], bool],
) -> Iterator[tuple[FetchedHour, Future[_Ready | None] | None]]:
    """Yield the hours with their ticks on the way; those that need no decoding with None."""
    ahead: deque[tuple[FetchedHour, Future[_Ready | None] | None]] = deque()
    for hour in hours:
        wanted = hour.kind == "data" and not is_unchanged(hour)
        ahead.append((hour, decoder.submit(_make_ready, series_id, hour) if wanted else None))
        if len(ahead) > READY_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _times(times_us: Sequence[int]) -> TimeArray:
    return TimeArray.of(to_postgres_us(np.array(times_us, np.int64)))
