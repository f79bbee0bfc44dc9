"""The database as a command sees it: an interface, public as part of :mod:`mdserver.plugin`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, Protocol

import attrs

from .model import (
    CandleRow,
    ImportedHour,
    PushedDay,
    RecordColumns,
    RecordType,
    StoredDay,
    TickColumns,
    Topic,
)

__all__ = ["CommandDatabase", "StoredSeries", "TickHour"]


class StoredSeries(Protocol):
    """A stored series: one broker, symbol and type of records. Its times are None while it has no rows."""

    @property
    def broker(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def type(self) -> RecordType: ...
    @property
    def row_count(self) -> int: ...
    @property
    def earliest_us(self) -> int | None: ...
    @property
    def latest_us(self) -> int | None: ...
    @property
    def last_seq(self) -> int:
        """The number of the newest streamed record; 0: all of it was imported."""
        ...

    @property
    def hist_v(self) -> int:
        """Goes up with each change of what lies before the newest record: an import, a repair, a late record."""
        ...


@attrs.frozen
class TickHour:
    """An hour of ticks to load as an import loads it; ``hour_us`` is its start.

    ``decode`` returns its ticks or raises BadMessage; it is called in a worker thread, and only if the ledger has
    another ``checksum``. None: the source said that there are none. ``service``, ``origin`` and ``settled`` are as in
    :class:`~mdserver.model.ImportedHour`.
    """

    hour_us: int
    decode: Callable[[], TickColumns] | None
    checksum: str = ""
    service: str = ""
    origin: str = ""
    settled: bool = True


class CommandDatabase(Protocol):
    """The configured database, as a command sees it.

    Each call is one transaction in a worker thread. Each raises :class:`~mdserver.errors.StoreUnavailable` while the
    database is unavailable, and :class:`~mdserver.errors.Rejected`, with the database's message, if it refuses the
    statement. The reference lists the views to query: ``market_ticks``, ``market_trades``, ``forex_candles_1m`` …
    ``forex_candles_1d``.
    """

    @property
    def engine(self) -> Literal["plain", "timescaledb"]:
        """How ticks are stored: in monthly partitions of PostgreSQL (``plain``), or in TimescaleDB's hypertables."""
        ...

    @property
    def server_version(self) -> int:
        """The database server's version as libpq encodes it: 150018 is 15.18."""
        ...

    async def series(self, symbol: str | None = None) -> Sequence[StoredSeries]:
        """Return the stored series; with ``symbol``, only those of that symbol."""
        ...

    async def query(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a reading statement and return its rows; ``%s`` and ``%(name)s`` are placeholders for parameters.

        The transaction is read-only even if the database is open for writing. All rows are held in memory.
        """
        ...

    async def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run a statement that writes to the command's own tables; return the number of affected rows.

        Raises :class:`~mdserver.errors.Rejected` if the database was not opened for writing. Do not write to the
        server's own tables: only the server keeps their candles, counters and numbers consistent.
        """
        ...

    @property
    def numbering(self) -> str:
        """Names the numbering of the streamed records: their ``seq`` means the same as long as this is the same."""
        ...

    async def days(self, series: StoredSeries) -> Sequence[StoredDay]:
        """Return the days of a series that were stored or imported, ascending; the last may still grow."""
        ...

    async def day_marks(self, series: StoredSeries, days: Sequence[date]) -> Mapping[date, str]:
        """Return a mark of each day that changes when its records do."""
        ...

    async def read_records(self, series: StoredSeries, first_us: int, end_us: int) -> RecordColumns:
        """Return the records in ``[first_us, end_us)`` as numpy columns, about 60 bytes each."""
        ...

    async def read_candles(self, series: StoredSeries, first_us: int, end_us: int) -> Sequence[CandleRow]:
        """Return the candles of every timeframe whose opens are in ``[first_us, end_us)``."""
        ...

    async def candles_of(self, records: RecordColumns) -> Sequence[CandleRow]:
        """Return the candles of every timeframe of a day of records, computed; nothing is read or stored."""
        ...

    async def imported_hours(
        self, series: StoredSeries, first_us: int, end_us: int
    ) -> Sequence[ImportedHour]:
        """Return the hours in ``[first_us, end_us)`` whose import is done."""
        ...

    async def load_hours(self, broker: str, symbol: str, hours: Sequence[TickHour]) -> Mapping[int, str]:
        """Load whole hours of ticks in one transaction, as an import does; return what was done, by the hour's start.

        ``added``, ``replaced``, ``unchanged``, ``empty``, or ``failed: `` and why; candles and ledger follow. Raises
        Rejected where the broker has streamed records of the symbol.
        """
        ...

    async def load_records(self, topic: Topic, day_us: int, records: RecordColumns, *, numbering: str) -> int:
        """Load a day of streamed records with their candles; return how many were not there.

        They keep their numbers if ``numbering`` is this database's; else they get others, below 0, always the same.
        Raises BadMessage, and stores none, if one of them cannot be stored.
        """
        ...

    async def load_candles(self, topic: Topic, candles: Sequence[CandleRow]) -> int:
        """Load those candles that are not there, of days without records; return how many."""
        ...

    async def pushed_days(self, lake: str) -> Sequence[PushedDay]:
        """Return what is known to lie in the lake of this address."""
        ...

    async def note_pushed(self, lake: str, pushed: PushedDay) -> None:
        """Note that a day lies in a lake, was read back and is whole; retention may drop its records then."""
        ...
