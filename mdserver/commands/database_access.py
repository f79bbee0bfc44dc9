"""The configured database as command plugins see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, TypeVar

import psycopg
import trio

from ..errors import BadMessage, Rejected
from ..kinds import BY_NAME
from ..model import CandleRow, ImportedHour, PushedDay, RecordColumns, StoredDay, TickColumns, Topic
from ..plugin import StoredSeries, TickHour
from ..store.connection.database import Database
from ..store.connection.database_errors import DataRefused, StatementRefused
from ..store.lake.days import day_marks, imported_hours, list_days
from ..store.lake.manifest import note_pushed, read_pushed
from ..store.lake.read_columns import read_candle_rows, read_columns
from ..store.lake.restore import load_candle_rows, load_records
from ..store.open_database import open_configured
from ..store.store import FetchedHour, SeriesInfo, Store
from .day_candles import candles_of_day

__all__ = ["DatabaseAccess", "open_configured"]

T = TypeVar("T")


class DatabaseAccess:
    """Implements :class:`mdserver.plugin.CommandDatabase`."""

    def __init__(self, database: Database, *, write: bool) -> None:
        self._database = database
        self._write = write

    @property
    def engine(self) -> Literal["plain", "timescaledb"]:
        """See :attr:`mdserver.plugin.CommandDatabase.engine`."""
        return self._database.engine

    @property
    def server_version(self) -> int:
        """See :attr:`mdserver.plugin.CommandDatabase.server_version`."""
        return self._database.server_version

    async def series(self, symbol: str | None = None) -> list[SeriesInfo]:
        """See :meth:`mdserver.plugin.CommandDatabase.series`."""
        return await Store(self._database).series(symbol)

    async def query(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """See :meth:`mdserver.plugin.CommandDatabase.query`."""

        def work(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            conn.execute("set transaction read only")
            cursor = conn.execute(statement.encode(), parameters or None)
            return [] if cursor.description is None else cursor.fetchall()

        return await self._run(work)

    async def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """See :meth:`mdserver.plugin.CommandDatabase.execute`."""
        return await self._change(lambda conn: conn.execute(statement.encode(), parameters or None).rowcount)

    @property
    def numbering(self) -> str:
        """See :attr:`mdserver.plugin.CommandDatabase.numbering`."""
        opened = self._database.opened
        return "" if opened is None else opened.epoch

    async def days(self, series: StoredSeries) -> list[StoredDay]:
        """See :meth:`mdserver.plugin.CommandDatabase.days`."""
        return await self._run(lambda conn: list_days(conn, _own(series)))

    async def day_marks(self, series: StoredSeries, days: Sequence[date]) -> dict[date, str]:
        """See :meth:`mdserver.plugin.CommandDatabase.day_marks`."""
        return await self._run(lambda conn: day_marks(conn, _own(series).id, days))

    async def read_records(self, series: StoredSeries, first_us: int, end_us: int) -> RecordColumns:
        """See :meth:`mdserver.plugin.CommandDatabase.read_records`."""
        stored = BY_NAME[series.type].stored
        if stored is None:
            raise Rejected(f"records of the type {series.type} are not stored")
        return await self._run(
            lambda conn: read_columns(conn, stored, _own(series).id, first_us, end_us), one_state=True
        )

    async def read_candles(self, series: StoredSeries, first_us: int, end_us: int) -> list[CandleRow]:
        """See :meth:`mdserver.plugin.CommandDatabase.read_candles`."""
        return await self._run(lambda conn: read_candle_rows(conn, _own(series).id, first_us, end_us))

    async def candles_of(self, records: RecordColumns) -> list[CandleRow]:
        """See :meth:`mdserver.plugin.CommandDatabase.candles_of`."""
        return await trio.to_thread.run_sync(candles_of_day, records)

    async def imported_hours(self, series: StoredSeries, first_us: int, end_us: int) -> list[ImportedHour]:
        """See :meth:`mdserver.plugin.CommandDatabase.imported_hours`."""
        return await self._run(lambda conn: imported_hours(conn, _own(series).id, first_us, end_us))

    async def load_hours(self, broker: str, symbol: str, hours: Sequence[TickHour]) -> dict[int, str]:
        """See :meth:`mdserver.plugin.CommandDatabase.load_hours`."""
        self._check_write()
        store = Store(self._database)
        try:
            series = await store.open_series(broker, symbol)
            results = await store.load_hours(series, [_fetched(hour) for hour in hours])
        except (StatementRefused, DataRefused) as error:
            raise Rejected(str(error)) from error
        return {
            one.hour_us: f"failed: {one.cause}" if one.status == "failed" else one.status for one in results
        }

    async def load_records(self, topic: Topic, day_us: int, records: RecordColumns, *, numbering: str) -> int:
        """See :meth:`mdserver.plugin.CommandDatabase.load_records`."""
        same = numbering == self.numbering != ""
        return await self._change(
            lambda conn: load_records(conn, topic, day_us, records, same_numbering=same)
        )

    async def load_candles(self, topic: Topic, candles: Sequence[CandleRow]) -> int:
        """See :meth:`mdserver.plugin.CommandDatabase.load_candles`."""
        return await self._change(lambda conn: load_candle_rows(conn, topic, candles))

    async def pushed_days(self, lake: str) -> list[PushedDay]:
        """See :meth:`mdserver.plugin.CommandDatabase.pushed_days`."""
        return await self._run(lambda conn: read_pushed(conn, lake))

    async def note_pushed(self, lake: str, pushed: PushedDay) -> None:
        """See :meth:`mdserver.plugin.CommandDatabase.note_pushed`."""
        await self._change(lambda conn: note_pushed(conn, lake, pushed))

    def _check_write(self) -> None:
        if not self._write:
            raise Rejected("the database was opened for reading: use open_database(write=True) to write")

    async def _change(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        self._check_write()
        return await self._run(work)

    async def _run(self, work: Callable[[psycopg.Connection[Any]], T], *, one_state: bool = False) -> T:
        try:
            return await self._database.run(work, one_state=one_state)
        except (StatementRefused, DataRefused) as error:
            raise Rejected(str(error)) from error


def _own(series: StoredSeries) -> SeriesInfo:
    if not isinstance(series, SeriesInfo):
        raise TypeError(f"found {type(series).__name__}, expected a series that this database returned")
    return series


def _fetched(hour: TickHour) -> FetchedHour:
    return FetchedHour(
        hour.hour_us,
        "empty" if hour.decode is None else "data",
        _no_ticks if hour.decode is None else hour.decode,
        hour.checksum,
        hour.service,
        hour.origin,
        settled=hour.settled,
    )


def _no_ticks() -> TickColumns:
    raise BadMessage("the source said that there are none")
