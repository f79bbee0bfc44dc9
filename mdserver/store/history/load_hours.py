"""Load whole hours of ticks into the database: rows, candles, ledger and metadata in one transaction.

Only a few decoded hours are in memory at a time: a thread decodes the next ones while one is copied, and only their
1m candles are kept.

Rows of a month without partition are loaded into a new table, which is then attached: building the key over all rows
is cheaper than adding each row to it.

Candles up to one hour lie within the imported hour, so they are computed from its ticks alone. Coarser ones are folded
in SQL from the stored 1h candles of their bucket, whoever stored those and when. So every order of imports ends in the
same table.
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
from .hour import (
    UNKNOWN_SYMBOL,
    BidAt,
    FetchedHour,
    HourResult,
    Status,
    hour_fault,
    is_unchanged,
    minutes_of,
    price_leap,
    verdict_of,
)
from .import_ledger import LedgerHour, read_hours, write_hours
from .tick_copy import TickCopy, copy_data

__all__ = ["load_hours", "open_series"]

READY_AHEAD = 4
"""How many hours are decoded ahead of the one that is copied."""

HOUR_S = TIMEFRAMES["1h"]
_DAY_US = 24 * HOUR_US
_MINUTE_S = TIMEFRAMES["1m"]
_WITHIN_HOUR = tuple(seconds for seconds in TIMEFRAMES.values() if seconds <= HOUR_S)

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

# Literals, not parameters: from parameters TimescaleDB derives no filter and decompresses all rows of the series in the
# chunk.
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
    """Return the series for a source's ticks of a symbol, created if missing.

    Raises Rejected if live records are stored under this name: replacing an hour would remove them.
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
    """A decoded hour: its rows as COPY data, and what else its load needs."""

    count: int
    first: BidAt
    last: BidAt
    minutes: Candles
    rows: bytes


def _make_ready(series_id: int, hour: FetchedHour) -> _Ready | None:
    """Decode an hour; return None if it has no ticks. Raises BadMessage."""
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

    Hours whose checksum the ledger has are not decoded. An hour that cannot be decoded is recorded as failed, unless
    a good one is stored: that stays. Blocking.
    """
    hours = sorted(hours, key=lambda hour: hour.hour_us)
    if not hours:
        return []
    load = _Load(conn, series, engine)
    load.begin(hours)
    with load.copy, ThreadPoolExecutor(1, "decode") as decoder:
        for hour, ready in _ready_ahead(decoder, series.id, hours, load.is_unchanged):
            load.add_hour(hour, ready)
        load.copy.close()
    load.finish()
    return load.results


@attrs.define(eq=False)
class _Load:
    """The state of one load, which is one transaction."""

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
    """The last stored bid of the week before each hour that does not follow another one of this load."""
    last: BidAt | None = None
    """The price that the next hour is compared with."""
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
        if self.engine == "timescaledb":
            # its default would refuse to replace more than 100,000 compressed ticks
            self.conn.execute(
                "select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)"
            )
        # Before any write of this transaction: only then can it tell which partitions are committed.
        self.new_months = create_partitions(self.conn, "ticks", starts)
        # Another import of the same days waits here, then finds our hours in the ledger.
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

    def add_hour(self, hour: FetchedHour, coming: Future[_Ready | None] | None) -> None:
        """Load one hour; call it in the order of time. ``coming``: its ticks, None if unchanged or without ticks."""
        before = self.before.get(hour.hour_us)
        if before and (self.last is None or self.last.time_us // HOUR_US < before.time_us // HOUR_US):
            self.last = before
        verdict = verdict_of(
            hour,
            self.known.get(hour.hour_us),
            is_stored=hour.hour_us in self.stored,
            symbol_known=self.symbol_known,
        )
        if verdict == "failed":
            self._failed(hour, hour.cause or UNKNOWN_SYMBOL)
        elif verdict == "denied":
            self._not_imported(hour, "denied", hour.cause)
        elif verdict == "unchanged":
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
        # last, because no other transaction can attach a partition until this one ends
        for month in self.new_months:
            attach_partition(self.conn, "ticks", month)

    # -- what an hour may be ---------------------------------------------------------------------------

    def is_unchanged(self, hour: FetchedHour) -> bool:
        """Return whether the ledger and the table have this hour as it was fetched."""
        known = self.known.get(hour.hour_us)
        return is_unchanged(hour, known, is_stored=hour.hour_us in self.stored)

    def _unchanged(self, hour: FetchedHour) -> None:
        known = self.known[hour.hour_us]
        if known.settled != hour.settled:
            self._record(hour, "ok" if hour.kind == "data" else "empty", known.row_count)
        self.results.append(HourResult(hour.hour_us, "unchanged", known.row_count))

    def _failed(self, hour: FetchedHour, cause: str) -> None:
        self._not_imported(hour, "failed", cause)

    def _not_imported(self, hour: FetchedHour, outcome: Literal["denied", "failed"], cause: str) -> None:
        """Record why nothing was imported. Stored ticks of the hour stay, and so does their entry in the ledger."""
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
        """Compare with the price before, or with the price that it would replace: no revision changes it so much."""
        if hour_us not in self.stored:
            return None if self.last is None else price_leap(first, self.last)
        self.copy.close()
        row = self.conn.execute(_FIRST_BID, (self.series.id, _times([hour_us]), _times([hour_us]))).fetchone()
        problem = None if row is None else price_leap(first, BidAt(*row))
        return (
            problem
            and f"{problem}; to store it all the same, first delete what is stored: mdserver run delete"
        )

    def _remove(self, hour_us: int) -> bool:
        """Delete the stored ticks of an hour; return whether there were any."""
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
        """Update the counts and bounds of the series. Only here is it locked, so two loads of it can run at once."""
        net = self.added_rows - self.removed_rows
        if not self.removed_rows:
            self.conn.execute(_ADD, (net, _times([self.first_us]), _times([self.last_us]), self.series.id))
            return
        # Lock first, in a statement of its own: the bounds must be read after the commit of the previous holder.
        self.conn.execute("select from series where id = %s for no key update", [self.series.id])
        self.conn.execute(_COUNT_REVISED, (net, self.series.id))


def _ready_ahead(
    decoder: Executor,
    series_id: int,
    hours: Iterable[FetchedHour],
    is_unchanged: Callable[[FetchedHour], bool],
) -> Iterator[tuple[FetchedHour, Future[_Ready | None] | None]]:
    """Yield the hours, each with the future of its ticks, or with None if it needs no decoding."""
    ahead: deque[tuple[FetchedHour, Future[_Ready | None] | None]] = deque()
    for hour in hours:
        wanted = hour.kind == "data" and not is_unchanged(hour)
        ahead.append((hour, decoder.submit(_make_ready, series_id, hour) if wanted else None))
        if len(ahead) > READY_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _times(times_us: Sequence[int]) -> TimeArray:
    return TimeArray.of(to_postgres_us(np.array(times_us, np.int64)))
