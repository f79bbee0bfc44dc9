"""The storage layer behind one class; nothing outside this package knows SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, TypeVar

import psycopg
import structlog
import trio

from ..candles import Candles, QuotePrice
from ..errors import StoreUnavailable
from ..kinds import BY_NAME
from ..log import RarelyLogged
from ..model import US_PER_S, Candle, Gap, GapState, LastRecord, Published, Record, RecordType, Topic
from ..stream.live_candles import CandleKey, StoredCandle
from ..stream.stored_past import Begin, GapKey, Page, Start
from ..timeframes import Timeframe
from .connection.both import both
from .connection.database import READ_S, Database
from .connection.database_errors import DataRefused, PartitionGone
from .gap_ledger import GapRow, LastingGap, mark_gap, read_gaps, read_holes, read_lasting_gaps
from .history.fill_gap import add_records
from .history.hour import FetchedHour, HourResult
from .history.import_ledger import is_settled, read_settled
from .history.load_hours import load_hours, open_series
from .history.venue_candles import add_candles
from .lake.manifest import DayInLake, days_in_lake_alone, list_days_in_lake
from .lake.replayed import where_they_are
from .live.named_holes import unstored
from .live.write_batch import SetAside, Written, write
from .query import bid_ask_candles, read_candles, replay_records, weighted_prices
from .query.bid_ask_candles import HOUR_S, Side, TooManyTicks
from .query.candle_arrays import joined, read_arrays
from .query.folded_candles import CandleBlocks, base_of, folded
from .query.newest_prices import newest_prices
from .query.read_candles import CandleColumns
from .query.read_coverage import CoverageDay, read_coverage
from .query.read_records import (
    RecordArrays,
    RecordPage,
    RowPosition,
    joined_arrays,
    middle_of,
    read_newest,
    read_record_arrays,
    read_records,
)
from .series import SeriesInfo, list_series, read_last_records
from .tables.partitions import forget_all_partitions

__all__ = [
    "MAX_TICKS",
    "CandleColumns",
    "CoverageDay",
    "FetchedHour",
    "GapRow",
    "HourResult",
    "LastingGap",
    "RecordArrays",
    "RecordPage",
    "RowPosition",
    "SeriesInfo",
    "Store",
    "TooManyTicks",
    "Written",
]

T = TypeVar("T")

_rarely = RarelyLogged(structlog.get_logger("mdserver.store"))

MAX_TICKS = 5_000_000
"""How many ticks one request for bid or ask candles may read: some seconds of work."""

_TWO_READS_FROM = 100_000
"""Pages of more records are read in two halves at the same time: PostgreSQL's work on a million takes most of a second.
"""

_FOLD_INLINE = 10_000
"""Up to so many candles are folded in the event loop, in a millisecond; more in a thread."""


class Store:
    """The storage layer as the rest of the server sees it.

    Each method is one transaction in a worker thread. All raise :class:`~mdserver.errors.StoreUnavailable` while the
    database is unavailable, and all can be cancelled.
    """

    def __init__(self, database: Database, *, store_received: bool = True, shared: bool = False) -> None:
        """``shared``: several processes store the same topics, in turn."""
        self._database = database
        self._shared = shared
        self._blocks = CandleBlocks()
        self._store_received = store_received

    async def series(self, symbol: str | None = None) -> list[SeriesInfo]:
        """Return what is stored, a row per broker, symbol and record type: of all symbols, or of one."""
        return await self._read(lambda conn: list_series(conn, symbol))

    async def last_records(self) -> dict[Topic, LastRecord]:
        """Return the last number and time of each topic, also of kinds of which only the numbers are stored."""
        return await self._read(read_last_records)

    async def candles(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> CandleColumns:
        """Return the candles whose opens are in ``[from_s, to_s]``, ascending, the forming one included."""
        return await self._read(lambda conn: read_candles.candles(conn, series_id, timeframe_s, from_s, to_s))

    async def candles_at(self, keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        """Return those of these candles that exist, of any series and timeframe."""
        return await self._read(lambda conn: read_candles.candles_at(conn, keys))

    async def candles_of(
        self, series: SeriesInfo, timeframe: Timeframe, from_s: int, to_s: int, side: Side | None = None
    ) -> CandleColumns:
        """Return candles of any timeframe whose opens are in ``[from_s, to_s]``, ascending, the forming one included.

        Both bounds are opens. ``series`` is as it was just read: what is kept in memory goes by its version. ``side``
        None: mid or trade prices. Bid and ask candles are computed from the ticks once; raises
        :class:`~.bid_ask_candles.TooManyTicks` if more than ``MAX_TICKS`` of them are still to be read. They are left
        out where retention has dropped ticks of theirs.
        """
        if side is None and timeframe.is_stored:
            return await self.candles(series.id, timeframe.length_s, from_s, to_s)
        end_s = timeframe.end_of(to_s)
        length_s = base_of(timeframe, side)
        if side is None:

            async def read(length_s: int, first_s: int, last_s: int) -> Candles:
                return await self._read(lambda conn: read_arrays(conn, series.id, length_s, first_s, last_s))

            blocks = await self._blocks.base(series, None, length_s, from_s, end_s - length_s, read)
        else:
            kept_from_s = await self._read(bid_ask_candles.kept_from_s)
            if kept_from_s is not None:
                from_s = max(from_s, timeframe.first_from(kept_from_s))
            if from_s > to_s:
                return CandleColumns()
            blocks = await self._blocks.base(
                series, side, length_s, from_s, end_s - length_s, partial(self._side_base, series, side)
            )
        if sum(len(block.time) for block in blocks) <= _FOLD_INLINE:
            return folded(blocks, timeframe, from_s, to_s)
        # it touches nothing shared, so a cancelled request need not wait for it
        return await trio.to_thread.run_sync(folded, blocks, timeframe, from_s, to_s, abandon_on_cancel=True)

    async def candle_days(self, series_ids: Sequence[int]) -> tuple[int, int] | None:
        """Return the first and the last day (UTC midnight, in seconds) with a candle of one of these series."""
        return await self._read(lambda conn: read_candles.candle_days(conn, series_ids))

    async def newest_prices(self, series: Sequence[SeriesInfo]) -> dict[int, list[float]]:
        """Return some of the newest prices (bids, of trades their own) of each series that has records, by its id."""
        return await self._read(lambda conn: newest_prices(conn, series))

    async def newest_record(self, series: SeriesInfo) -> RecordPage:
        """Return the newest record of a series as a page of one, an empty page if there is none."""
        stored = BY_NAME[series.type].stored
        if stored is None or series.latest_us is None:
            return RecordPage([], [], [], {})
        latest_us = series.latest_us
        return await self._read(lambda conn: read_newest(conn, stored, series.id, latest_us))

    async def weighted_prices(
        self, series: SeriesInfo, timeframe: Timeframe, from_s: int, to_s: int, price: QuotePrice
    ) -> dict[int, float]:
        """Return the volume-weighted price of each candle whose open is in ``[from_s, to_s]``, from the stored records.

        ``price`` says which price of a tick counts. A candle without volume has none. Raises
        :class:`~.bid_ask_candles.TooManyTicks` if there are more than ``MAX_TICKS`` records.
        """
        stored = BY_NAME[series.type].stored
        if stored is None:
            raise ValueError(f"{series.type}: records of this kind are not stored")
        return await self._read(
            lambda conn: weighted_prices.weighted_prices(
                conn, stored.table, series.id, timeframe, from_s, to_s, price, most=MAX_TICKS
            )
        )

    async def _side_base(
        self, series: SeriesInfo, side: Side, length_s: int, first_s: int, last_s: int
    ) -> Candles:
        """Read bid or ask candles, many ticks in two halves at once: each hour is of one snapshot all the same."""
        first_s -= first_s % HOUR_S
        read = partial(self._side_part, series, side, length_s)
        hours = await self.candles(series.id, HOUR_S, first_s, last_s)
        ticks = sum(hours.count)
        middle_s = middle_of(hours, ticks)
        if not _TWO_READS_FROM <= ticks <= MAX_TICKS or not first_s < middle_s <= last_s:
            return await read(first_s, last_s)
        halves = await both(partial(read, first_s, middle_s - length_s), partial(read, middle_s, last_s))
        return joined(halves)

    async def _side_part(
        self, series: SeriesInfo, side: Side, length_s: int, first_s: int, last_s: int
    ) -> Candles:
        """Read bid or ask candles, and keep those hours that had to be computed and are over."""
        found = await self._database.run(
            lambda conn: bid_ask_candles.side_candles(
                conn, series.id, length_s, first_s, last_s, side, most_ticks=MAX_TICKS
            ),
            within_s=READ_S,
            one_state=True,
        )
        latest_s = (series.latest_us or 0) // US_PER_S
        over = [hour for hour in found.new if hour.time + HOUR_S <= latest_s]
        if over:
            try:
                await self._change(lambda conn: bid_ask_candles.keep_hours(conn, series.id, side, over))
            except StoreUnavailable as error:  # a full disk, say: they are right all the same
                _rarely.warning(
                    "Bid and ask candles could not be kept; they are computed again", error=str(error)
                )
        return found.candles

    async def coverage(self, series_ids: Sequence[int], first_s: int, end_s: int) -> list[CoverageDay]:
        """Return the days in ``[first_s, end_s)`` that anything is known of: see :class:`.CoverageDay`."""
        return await self._read(lambda conn: read_coverage(conn, series_ids, first_s, end_s))

    async def records(
        self,
        series_id: int,
        type_: RecordType,
        from_us: int,
        to_us: int,
        *,
        after: RowPosition | None = None,
        limit: int,
    ) -> RecordPage:
        """Return the first ``limit`` records in ``[from_us, to_us]`` that come after the position ``after``.

        ``type_`` is the type of the series. Raises KeyError for an unknown type, ValueError for one without a table.
        """
        stored = BY_NAME[type_].stored
        if stored is None:
            raise ValueError(f"{type_}: records of this kind are not stored")
        return await self._read(
            lambda conn: read_records(conn, stored, series_id, from_us, to_us, after=after, limit=limit)
        )

    async def record_arrays(
        self, series: SeriesInfo, from_us: int, to_us: int, *, after: RowPosition | None = None, limit: int
    ) -> RecordArrays:
        """Return what :meth:`records` returns, with numbers as numpy arrays."""
        stored = BY_NAME[series.type].stored
        if stored is None:
            raise ValueError(f"{series.type}: records of this kind are not stored")
        imported = series.last_seq == 0  # no record of it came from a socket

        async def read(first_us: int, last_us: int) -> RecordArrays:
            return await self._read(
                lambda conn: read_record_arrays(
                    conn,
                    stored,
                    series.id,
                    first_us,
                    last_us,
                    after=after,
                    limit=limit,
                    received_is_null=imported,
                )
            )

        if limit < _TWO_READS_FROM:
            return await read(from_us, to_us)
        begin_us = from_us if after is None else max(from_us, after[0])
        hours = await self.candles(
            series.id, HOUR_S, begin_us // US_PER_S // HOUR_S * HOUR_S, to_us // US_PER_S
        )
        middle_us = middle_of(hours, limit) * US_PER_S
        if not begin_us < middle_us <= to_us:
            return await read(from_us, to_us)
        one, other = await both(partial(read, from_us, middle_us - 1), partial(read, middle_us, to_us))
        return joined_arrays(one, other, limit)

    async def gaps(
        self,
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
        """Return the recorded gaps that touch ``[first_us, last_us]``, earliest first, none with a cause of ``but``.

        ``symbols`` and ``brokers`` are those that the client may see; None: all.
        """
        return await self._read(
            lambda conn: read_gaps(
                conn,
                first_us,
                last_us,
                series_id=series_id,
                symbol=symbol,
                broker=broker,
                state=state,
                but=but,
                symbols=symbols,
                brokers=brokers,
                limit=limit,
            )
        )

    async def missing_times(
        self, series_id: int, first_us: int, last_us: int, *, limit: int
    ) -> list[tuple[int, int | None]]:
        """Return when records of a series are missing in ``[first_us, last_us]``; see :mod:`.gap_ledger`."""
        return await self._read(lambda conn: read_holes(conn, series_id, first_us, last_us, limit=limit))

    async def lasting_gaps(
        self,
        last_us: int,
        *,
        symbol: str | None = None,
        broker: str | None = None,
        symbols: Collection[str] | None = None,
        brokers: Collection[str] | None = None,
        limit: int,
    ) -> list[LastingGap]:
        """Return the gaps that have not ended and began until ``last_us``, earliest first.

        ``symbols`` and ``brokers`` are those that the client may see; None: all.
        """
        return await self._read(
            lambda conn: read_lasting_gaps(
                conn, last_us, symbol=symbol, broker=broker, symbols=symbols, brokers=brokers, limit=limit
            )
        )

    async def add_missed(self, topic: Topic, records: Sequence[Record]) -> list[int]:
        """Store records that a gap had swallowed, each once, with their candles; return the times of the new ones.

        They get no number of the stream: see :mod:`.history.fill_gap`. Raises ValueError for a record that cannot be
        stored.
        """
        return await self._change(lambda conn: add_records(conn, topic, records))

    async def add_missed_candles(self, topic: Topic, candles: Sequence[Candle]) -> list[int]:
        """Store candles of a topic whose records cannot be had, each once; return the opens of the new ones.

        See :mod:`.history.venue_candles`.
        """
        return await self._change(lambda conn: add_candles(conn, topic, candles))

    async def mark_gap(self, gap_id: int, state: GapState, *, to_us: int | None = None) -> bool:
        """Set the state of a gap, such as filled; return False if none has this id, or if it ends elsewhere by now."""
        return await self._change(lambda conn: mark_gap(conn, gap_id, state, to_us=to_us))

    async def replay_begins(self, starts: Mapping[Topic, Start]) -> dict[Topic, Begin]:
        """Return where the replay of each topic begins."""

        def work(conn: psycopg.Connection[Any]) -> dict[Topic, Begin]:
            series = replay_records.series_of(conn, starts)
            found = {
                topic: replay_records.begin(conn, series.get(topic), start) for topic, start in starts.items()
            }
            return {
                topic: where_they_are(conn, series.get(topic), starts[topic], begin)
                for topic, begin in found.items()
            }

        return await self._database.run(work, within_s=READ_S, one_state=True)

    async def replay_series(self, topics: Collection[Topic]) -> dict[Topic, tuple[SeriesInfo, int]]:
        """Return the series of the topics that have one, as they stand, each with its last number, also of a gap."""
        return await self._read(lambda conn: replay_records.series_and_ends(conn, topics))

    async def replay_page(
        self,
        series: SeriesInfo,
        after: int,
        limit: int,
        *,
        received: bool,
        told: frozenset[GapKey] = frozenset(),
    ) -> Page:
        """Return records of a series behind the number ``after``, at most ``limit``, and the gaps, as frames."""
        return await self._database.run(
            lambda conn: replay_records.read_page(conn, series, after, limit, received=received, told=told),
            within_s=READ_S,
            one_state=True,
        )

    async def write(self, batch: Sequence[Published], set_aside: SetAside = lambda rejected: None) -> Written:
        """Store a batch in one transaction; records whose ``seq`` is stored already are skipped.

        A record whose content PostgreSQL refuses never blocks the others: the batch is halved until the culprit is
        alone, and it is returned in ``rejected``. Before any later record is stored, ``set_aside`` is called with it
        in a worker thread; if that raises (OSError), so does this method, and no later record is stored. After that
        error, after :class:`~mdserver.errors.StoreUnavailable` or a cancellation the batch may be stored in part or
        whole: write it again.
        """
        try:
            return await self._change(
                lambda conn: write(
                    conn,
                    batch,
                    received=self._store_received,
                    shared=self._shared,
                    set_aside=set_aside,
                ),
                live=True,
            )
        except DataRefused as error:
            if len(batch) == 1:
                rejected = [(batch[0], str(error))]
                await trio.to_thread.run_sync(set_aside, rejected)
                if not isinstance(batch[0].record, Gap):
                    await self.write([unstored(batch[0])], set_aside)
                return Written(rejected=rejected)
        # In order, never side by side: a later half that is stored first would raise ``last_seq``, and the earlier
        # half would be skipped as stored already.
        middle = len(batch) // 2
        first = await self.write(batch[:middle], set_aside)
        second = await self.write(batch[middle:], set_aside)
        return Written(
            first.stored + second.stored,
            first.skipped + second.skipped,
            first.rejected + second.rejected,
            first.lost + second.lost,
        )

    async def try_write(self, batch: Sequence[Published]) -> None:
        """Write a batch and roll it back, to find out whether it can be stored. Raises as :meth:`write` does."""

        def work(conn: psycopg.Connection[Any]) -> None:
            with conn.transaction(force_rollback=True):
                write(conn, batch, received=self._store_received, shared=self._shared)

        try:
            await self._change(work, live=True)
        except DataRefused as error:
            raise StoreUnavailable(str(error)) from error

    async def days_in_lake(
        self, series_ids: Sequence[int], table: str, first_us: int, last_us: int
    ) -> tuple[date, date] | None:
        """Return the first and the last day of these series in ``[first_us, last_us]`` that lie in a data lake alone.

        Retention has dropped their records here. None where there is no such day.
        """
        return await self._read(lambda conn: days_in_lake_alone(conn, series_ids, table, first_us, last_us))

    async def list_days_in_lake(
        self, lake: str, series_ids: Sequence[int], table: str, first_us: int, last_us: int
    ) -> list[DayInLake]:
        """Return those days, one by one, that lie in the lake of this address."""
        return await self._read(
            lambda conn: list_days_in_lake(conn, lake, series_ids, table, first_us, last_us)
        )

    @property
    def numbering(self) -> str:
        """Names the numbering of the streamed records; "" before the database was opened."""
        opened = self._database.opened
        return "" if opened is None else opened.epoch

    async def open_series(self, source: str, symbol: str) -> SeriesInfo:
        """Return the series for a source's imported ticks, created if missing. Raises Rejected if it is a live one."""
        return await self._database.run(lambda conn: open_series(conn, source, symbol))

    async def settled_hours(self, series_id: int, first_us: int, last_us: int) -> dict[int, bool]:
        """Return the hours in ``[first_us, last_us]`` whose import is final, and whether each is empty."""
        return await self._database.run(lambda conn: read_settled(conn, series_id, first_us, last_us))

    async def is_settled(self, series_id: int, first_us: int, last_us: int) -> bool:
        """Return whether the import of each hour that ``[first_us, last_us]`` touches is final."""
        return await self._read(lambda conn: is_settled(conn, series_id, first_us, last_us))

    async def load_hours(self, series: SeriesInfo, hours: Sequence[FetchedHour]) -> list[HourResult]:
        """Store whole hours of ticks in one transaction, with candles and ledger; see :mod:`.history.load_hours`.

        After :class:`~mdserver.errors.StoreUnavailable` it may or may not be done; repeating it is safe.
        """
        engine = self._database.engine
        return await self._change(lambda conn: load_hours(conn, series, engine, hours))

    async def _read(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Read for a waiting client."""
        return await self._database.run(work, within_s=READ_S)

    async def _change(self, work: Callable[[psycopg.Connection[Any]], T], *, live: bool = False) -> T:
        """Store rows. If a known partition has been dropped, raise, and create it at the next try."""
        try:
            return await self._database.run(work, live=live)
        except PartitionGone:
            forget_all_partitions()
            raise
