"""The data that flow through the server: instruments, ticks, trades, order books, candles.

Times are integer Unix microseconds, UTC (``time_us``). That is PostgreSQL's resolution, so stored and streamed times
are equal. Prices are floats: a venue's price survives a round trip up to 15 significant digits. Records are msgspec
structs: building one costs an eighth of a frozen attrs object, and they are encoded to JSON and MessagePack in C.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, final

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DELETED",
    "DISCARDED",
    "FAILOVER",
    "JOURNAL_FULL",
    "LEFT_OUT",
    "LOST",
    "NOT_RECEIVED",
    "OF_GARBAGE",
    "OF_STORING",
    "REJECTED",
    "TIMEFRAMES",
    "UNSTORABLE",
    "US_PER_S",
    "BookAction",
    "Candle",
    "CandleRow",
    "Feed",
    "Gap",
    "GapState",
    "ImportedHour",
    "Instrument",
    "LakeDay",
    "LakePage",
    "LastRecord",
    "Level",
    "OrderBook",
    "Published",
    "PushedDay",
    "Record",
    "RecordColumns",
    "RecordType",
    "Side",
    "StoredDay",
    "Tick",
    "TickColumns",
    "Topic",
    "Trade",
]

US_PER_S = 1_000_000
"""Microseconds in a second."""

NOT_RECEIVED = -(2**63)
"""In :class:`RecordColumns`: no socket brought the record, or its time of receipt was not kept."""

RecordType: TypeAlias = str
"""The name of a kind of record, such as ``tick``; :mod:`mdserver.kinds` lists all."""

Side: TypeAlias = Literal["buy", "sell"]
"""The side of a trade's aggressor (taker)."""

BookAction: TypeAlias = Literal["snapshot", "update"]
"""Whether an order book record replaces the book or changes it."""

Level: TypeAlias = tuple[float, float]
"""One price of an order book and its size; in an update, size 0 removes the price."""

TIMEFRAMES: dict[str, int] = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "4h": 14_400,
    "12h": 43_200,
    "1d": 86_400,
}
"""Name of each candle interval and its length in seconds; all are aligned to midnight UTC."""


class Instrument(Struct, frozen=True):
    """An instrument.

    ``symbol`` is canonical (``BTCUSDT``); ``venue_symbol`` is the venue's own string; ``base`` and ``quote`` are from
    the venue's list of instruments, never derived by splitting the symbol.
    """

    symbol: str
    venue_symbol: str
    base: str = ""
    quote: str = ""


@final
class Tick(Struct, frozen=True, gc=False, array_like=True, tag="q"):
    """A best bid/ask update. A size that the venue does not give is None, never 0."""

    symbol: str
    time_us: int
    bid: float
    ask: float
    bid_size: float | None = None
    ask_size: float | None = None


class TickColumns(NamedTuple):
    """Many ticks of one symbol, one array per column, all of one length, in the order of their source.

    Times never decrease and may repeat. A size that the source does not give is NaN, never 0.
    """

    time_us: NDArray[np.int64]
    bid: NDArray[np.float64]
    ask: NDArray[np.float64]
    bid_size: NDArray[np.float64]
    ask_size: NDArray[np.float64]


@final
class Trade(Struct, frozen=True, gc=False, array_like=True, tag="t"):
    """An execution. ``side`` is the aggressor's; None if the venue does not report it."""

    symbol: str
    time_us: int
    price: float
    size: float
    side: Side | None = None
    trade_id: str | None = None


@final
class OrderBook(Struct, frozen=True, gc=False, array_like=True, tag="b"):
    """The levels of both sides, best first, or a change of them.

    ``depth`` tells apart the books of one symbol: a number of levels, or ``full``.
    """

    symbol: str
    time_us: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    action: BookAction = "snapshot"
    depth: str = ""


@final
class Candle(Struct, frozen=True, gc=False, array_like=True, tag="c"):
    """A live candle: ``time_us`` is its open, ``interval`` a name of :data:`TIMEFRAMES`, ``count`` its records.

    It is sent while it forms, once with ``closed``, and again with ``revised`` if a late record has changed it.
    """

    symbol: str
    time_us: int
    interval: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int
    closed: bool
    revised: bool = False


Record: TypeAlias = Tick | Trade | OrderBook | Candle


class Feed(NamedTuple):
    """One type of records of one symbol, wanted from one broker.

    ``variant`` tells apart feeds with equal symbol and type: a candle's interval, a book's depth.
    """

    symbol: str
    type: RecordType
    variant: str = ""


class Topic(NamedTuple):
    """One :class:`Feed` of one broker; clients subscribe to topics, and each has its own ``seq``."""

    broker: str
    symbol: str
    type: RecordType
    variant: str = ""


FAILOVER = "failover"
"""The cause of the gap between the records of two leaders; numbers are left out behind it."""

LEFT_OUT = 1_000_000
"""Numbers that a new leader leaves out: the one before may have journalled records with them that nobody saw."""

JOURNAL_FULL = "journal_full"
"""The cause of a gap in the stored records: clients received them, but the journal could not store them."""

UNSTORABLE = "unstorable"
"""The cause of a gap in the stored records: clients received them, but the database refuses them."""

LOST = "lost"
"""The cause of a gap in the stored records whose numbers are missing in the journal, such as a damaged one."""

DELETED = "deleted"
"""The cause of a gap in the stored records: an operator deleted them."""

REJECTED = "rejected"
"""The cause of a gap of records that the check rejected."""

DISCARDED = "discarded"
"""The cause of a gap behind a message that could not be decoded: records of any feed may have been in it."""

OF_GARBAGE: frozenset[str] = frozenset({REJECTED, DISCARDED})
"""The causes that a bad venue repeats without end: their gaps share rows of the ledger."""

OF_STORING: frozenset[str] = frozenset({JOURNAL_FULL, UNSTORABLE, LOST, DELETED})
"""The causes that say nothing of the venue: clients have received these records."""

GapState: TypeAlias = Literal["open", "filled", "permanent"]
"""The state of a gap: not filled, filled from a history, or impossible to fill."""


@final
class Gap(Struct, frozen=True, array_like=True, tag="g"):
    """An interval in which records of a topic may be missing: the last one before and the first one after it.

    ``to_us`` is None while it lasts. ``size`` is the number of missing records if it is known; it is never guessed. A
    gap takes the same path as records: through the journal, to the clients in order, into a table.
    """

    topic: Topic
    from_us: int
    to_us: int | None
    cause: str
    size: int | None = None
    state: GapState = "open"

    @property
    def time_us(self) -> int:
        """Its end, as far as it is known."""
        return self.from_us if self.to_us is None else self.to_us


class Published(Struct, frozen=True, gc=False, array_like=True):
    """An accepted record with its number, which is contiguous per topic, even after a restart.

    ``received_us`` is the time at which the server's socket received it; None if it did not arrive on a socket, such as
    imported history. A gap has no number of its own: its ``seq`` is that of the record before it.
    """

    topic: Topic
    seq: int
    record: Record | Gap
    received_us: int | None = None


class LastRecord(NamedTuple):
    """The end of a topic: the number of its newest record, the newest time of its records, and the gap after them.

    ``hole`` is a gap without an end, or None if no gap is known to last.
    """

    seq: int
    time_us: int
    hole: Gap | None = None


class RecordColumns(NamedTuple):
    """Stored records of one topic, one array per column, all of one length, ascending by (time, seq).

    ``received_us`` has :data:`NOT_RECEIVED` where there is no time of receipt. ``values`` has the kind's columns by
    the names of the record's fields: floats, NaN for a size that the venue does not give; texts as objects, None where
    there is none.
    """

    time_us: NDArray[np.int64]
    seq: NDArray[np.int64]
    received_us: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]


class CandleRow(NamedTuple):
    """A stored candle: ``timeframe_s`` is its length, ``time_us`` its open; the volume is exact to 1e-8."""

    timeframe_s: int
    time_us: int
    open: float
    high: float
    low: float
    close: float
    volume: Decimal
    row_count: int


class StoredDay(Struct, frozen=True):
    """A day of a series, UTC. ``count`` is the number of its records when they were stored.

    ``dropped``: its records are older than the retention and no longer there; its candles are. ``late``: of such a day
    there are records all the same, which came late or were pulled back.
    """

    day: date
    count: int
    dropped: bool
    late: bool = False


class ImportedHour(Struct, frozen=True):
    """What the import ledger has of an hour whose import is done: its ``outcome`` is ``ok`` or ``empty``.

    ``checksum`` is of the file as the source gave it, "" where there was none; ``origin`` is its address.
    ``settled`` is False where the source may still change it.
    """

    hour_us: int
    outcome: Literal["ok", "empty"]
    count: int
    checksum: str
    service: str
    origin: str
    settled: bool


class LakeDay(Struct, frozen=True):
    """What is written beside the records of a day in a data lake.

    ``numbering`` names the numbering of their ``seq``; "" where they were imported: then ``seq`` counts from 1 in each
    hour, and ``hours`` is what is known of the import of each.
    """

    day: date
    count: int
    numbering: str = ""
    hours: tuple[ImportedHour, ...] = ()


class LakePage(NamedTuple):
    """Some records of a day in a data lake; ``numbering`` as in :class:`LakeDay`."""

    records: RecordColumns
    numbering: str


class PushedDay(Struct, frozen=True):
    """A day of a series that lies in a data lake, verified there by reading it back.

    ``what``: its records or its candles. ``key`` names the object, ``checksum`` is the SHA-256 of its bytes. ``mark``
    is that of the day as it was pushed; ``hist_v`` that of its series when this was last compared.
    """

    broker: str
    symbol: str
    type: RecordType
    day: date
    what: Literal["records", "candles"]
    key: str
    count: int
    size_bytes: int
    checksum: str
    mark: str
    hist_v: int
