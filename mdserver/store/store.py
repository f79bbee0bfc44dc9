"""Everything that is stored, behind one class; nothing outside this package knows SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
import trio

from ..candles import QuotePrice
from ..errors import StoreUnavailable
from ..kinds import BY_NAME
from ..model import GapState, LastRecord, Published, RecordType, Topic
from ..stream.live_candles import CandleKey, StoredCandle
from .connection.database import READ_S, Database
from .connection.database_errors import DataRefused, PartitionGone
from .gap_ledger import GapRow, mark_gap, read_gaps
from .history.hour import FetchedHour, HourResult
from .history.import_ledger import is_settled, read_settled
from .history.load_hours import load_hours, open_series
from .live.write_batch import SetAside, Written, write
from .query import bid_ask_candles as sides
from .query import read_candles as read
from .query.read_candles import CandleColumns
from .query.read_records import RecordPage, RowPosition, read_records
from .series import SeriesInfo, list_series, read_last_records
from .tables.partitions import forget_all_partitions

__all__ = [
    "CandleColumns",
    "FetchedHour",
    "GapRow",
    "HourResult",
    "RecordPage",
    "RowPosition",
    "SeriesInfo",
    "Store",
    "Written",
]

T = TypeVar("T")


class Store:
    """What the rest of the server sees of storage.

    Each method is one transaction and one hop to a worker thread; all raise
    :class:`~mdserver.errors.StoreUnavailable` while the database is away, and can be cancelled.
    """

    def __init__(self, database: Database, *, store_received: bool = True) -> None:
        self._database = database
        self._store_received = store_received

    async def series(self, symbol: str | None = None) -> list[SeriesInfo]:
        """Return what is stored: a row per broker, symbol and record type; of one symbol if given."""
        return await self._read(lambda conn: list_series(conn, symbol))

    async def last_records(self) -> dict[Topic, LastRecord]:
        """Return where each topic stands, also of kinds of which only the numbers are stored."""
        return await self._read(read_last_records)

    async def candles(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> CandleColumns:
        """Return the candles whose opens are in ``[from_s, to_s]``, ascending, the forming one included."""
        return await self._read(lambda conn: read.candles(conn, series_id, timeframe_s, from_s, to_s))

    async def candles_at(self, keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        """Return those of these candles that exist, of any series and timeframe."""
        return await self._read(lambda conn: read.candles_at(conn, keys))

    async def side_candles(
        self, series_id: int, timeframe_s: int, from_s: int, to_s: int, side: QuotePrice
    ) -> CandleColumns:
        """Return the bid or ask candles whose opens are in ``[from_s, to_s]``: computed from the stored ticks.

        See :func:`sides.side_candles`; ask :meth:`count_ticks` first how many those are.
        """
        return await self._read(
            lambda conn: sides.side_candles(conn, series_id, timeframe_s, from_s, to_s, side)
        )

    async def count_ticks(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> int:
        """Return how many stored ticks make the candles whose opens are in ``[from_s, to_s]``."""
        return await self._read(lambda conn: sides.count_ticks(conn, series_id, timeframe_s, from_s, to_s))

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
        """Return the first ``limit`` records in ``[from_us, to_us]`` that come behind ``after``.

        ``type_`` is the series' own. Raises KeyError for a kind that does not exist, ValueError for one without table.
        """
        stored = BY_NAME[type_].stored
        if stored is None:
            raise ValueError(f"{type_}: records of this kind are not stored")
        return await self._read(
            lambda conn: read_records(conn, stored, series_id, from_us, to_us, after=after, limit=limit)
        )

    async def gaps(
        self,
        first_us: int,
        last_us: int,
        *,
        series_id: int | None = None,
        symbol: str | None = None,
        broker: str | None = None,
        state: GapState | None = None,
        limit: int,
    ) -> list[GapRow]:
        """Return the recorded gaps that touch ``[first_us, last_us]``, the earliest first."""
        return await self._read(
            lambda conn: read_gaps(
                conn,
                first_us,
                last_us,
                series_id=series_id,
                symbol=symbol,
                broker=broker,
                state=state,
                limit=limit,
            )
        )

    async def mark_gap(self, gap_id: int, state: GapState) -> bool:
        """Set what became of a gap, such as filled from a history; False if there is none of this id."""
        return await self._change(lambda conn: mark_gap(conn, gap_id, state))

    async def write(self, batch: Sequence[Published], set_aside: SetAside = lambda rejected: None) -> Written:
        """Store a batch in one transaction; what is stored already is skipped, by ``seq``.

        A record that PostgreSQL refuses for what it holds never keeps others: the batch is halved until the culprit
        is alone, and it comes back in ``rejected``. ``set_aside`` gets it first, in a worker thread, before any later
        record is stored: what it raises (OSError) is raised, and nothing behind is stored. After that, after
        :class:`~mdserver.errors.StoreUnavailable` or a cancellation the batch may or may not be stored: write it
        again.
        """
        try:
            return await self._change(
                lambda conn: write(conn, batch, received=self._store_received, set_aside=set_aside), live=True
            )
        except DataRefused as error:
            if len(batch) == 1:
                rejected = [(batch[0], str(error))]
                await trio.to_thread.run_sync(set_aside, rejected)
                return Written(rejected=rejected)
        middle = len(batch) // 2
        first = await self.write(batch[:middle], set_aside)
        second = await self.write(batch[middle:], set_aside)
        return Written(
            first.stored + second.stored,
            first.skipped + second.skipped,
            first.rejected + second.rejected,
        )

    async def try_write(self, batch: Sequence[Published]) -> None:
        """Write a batch and take that back: to find out whether it can be stored. Raises as :meth:`write`."""

        def work(conn: psycopg.Connection[Any]) -> None:
            with conn.transaction(force_rollback=True):
                write(conn, batch, received=self._store_received)

        try:
            await self._change(work, live=True)
        except DataRefused as error:
            raise StoreUnavailable(str(error)) from error

    async def open_series(self, source: str, symbol: str) -> SeriesInfo:
        """Return the series that a source's ticks are imported into, made if there is none; Rejected if it is live."""
        return await self._database.run(lambda conn: open_series(conn, source, symbol))

    async def settled_hours(self, series_id: int, first_us: int, last_us: int) -> dict[int, bool]:
        """Return the hours in ``[first_us, last_us]`` that were imported for good, and whether each is empty."""
        return await self._database.run(lambda conn: read_settled(conn, series_id, first_us, last_us))

    async def is_settled(self, series_id: int, first_us: int, last_us: int) -> bool:
        """Return whether each hour that ``[first_us, last_us]`` touches was imported for good: no import changes it."""
        return await self._read(lambda conn: is_settled(conn, series_id, first_us, last_us))

    async def load_hours(self, series: SeriesInfo, hours: Sequence[FetchedHour]) -> list[HourResult]:
        """Store whole hours of ticks in one transaction, with candles and ledger; see :mod:`.history.load_hours`.

        After :class:`~mdserver.errors.StoreUnavailable` it may or may not be done: do it again, that is safe.
        """
        engine = self._database.engine
        return await self._change(lambda conn: load_hours(conn, series, engine, hours))

    async def _read(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Read what a client waits for."""
        return await self._database.run(work, within_s=READ_S)

    async def _change(self, work: Callable[[psycopg.Connection[Any]], T], *, live: bool = False) -> T:
        """Store rows; where a partition is gone that was there, the next try makes it again."""
        try:
            return await self._database.run(work, live=live)
        except PartitionGone:
            forget_all_partitions()
            raise
