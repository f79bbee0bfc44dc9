"""The kinds of records: one row each, with everything that the server needs to know about a kind (pure).

No code between broker, client and table distinguishes kinds by itself: it looks up :data:`KINDS` by ``type(record)``,
or :data:`BY_NAME` by the name that clients use. A new kind is a struct and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import attrs
from msgspec import Struct

from .candles import Prices, prices_of_ticks, prices_of_trades
from .model import Candle, Gap, OrderBook, Published, RecordType, Tick, Trade
from .record_check import EARLIEST_US, CandleCheck, OrderBookCheck, TickCheck, TradeCheck
from .record_wire import (
    FULL_BOOK,
    Received,
    best_levels,
    candle_wire,
    gap_wire,
    order_book_wire,
    tick_wire,
    trade_wire,
)

__all__ = [
    "BY_NAME",
    "FULL_BOOK",
    "KINDS",
    "Check",
    "ColumnForm",
    "Kind",
    "StoredAs",
    "StoredColumn",
    "default_variant",
    "record_tables",
]


class Check(Protocol):
    """The check of one topic's records; it may remember earlier ones."""

    def fault(self, record: Any, /) -> str | None:
        """Return why a record is impossible, as a metric's label, or None; its time was checked before."""
        ...


ColumnForm: TypeAlias = Literal["price", "size", "code", "text"]
"""``price``: a finite float. ``size``: a float from 0 on, or None. ``code``: a byte for each known text, or None.
``text``: any text, or None."""


@attrs.frozen(eq=False)
class StoredColumn:
    """A column of a kind's table, named like the record's field; ``codes``: text to byte."""

    name: str
    form: ColumnForm
    codes: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class StoredAs:
    """How a kind is stored.

    The table has the columns ``time``, ``seq``, ``series_id`` and ``received`` (null if the record did not arrive on a
    socket) and ``columns``. ``prices`` makes the prices of candles from (series, time, seq, the columns named in
    ``candle_columns``); None: there are no candles of this kind.
    """

    table: str
    columns: tuple[StoredColumn, ...]
    candle_columns: tuple[str, ...] = ()
    prices: Callable[..., Prices] | None = None


@attrs.frozen(eq=False)
class Kind:
    """Everything that the server knows about one kind of records.

    ``struct`` has ``symbol`` and ``time_us`` and is array-like with a tag of its own: the journal tells kinds apart
    by it. ``check`` makes the check of a topic. ``wire`` makes what is encoded for clients, given when the socket
    had the record; ``times`` are its fields that are times, with those of the struct. ``cut`` leaves so many levels.
    ``latest_wins``: whether a newer record of the topic takes the place of this one while a client is behind;
    ``may_wait``: whether there are any such records.
    ``changes``: whether it only changes what came before it, so that nothing but the whole can take its place.
    ``needs_before``: whether it means nothing without what came before it.
    ``variant`` tells apart the topics of one symbol; None: there is one; ``default_variant`` is that of
    whoever names none. ``stored`` None: the number is kept, the record is not; else the wire form is the columns under
    their names, for a replay is encoded by the database. No record is older than ``earliest_us``.
    """

    name: RecordType
    struct: type[Struct]
    check: Callable[[], Check]
    wire: Callable[[Published, Any, Received], Struct]
    latest_wins: Callable[[Any], bool]
    may_wait: bool = False
    changes: Callable[[Any], bool] | None = None
    needs_before: Callable[[Any], bool] | None = None
    cut: Callable[[Any, int], Any] | None = None
    times: tuple[tuple[str, str], ...] = (("time", "time_us"),)
    variant: Callable[[Any], str] | None = None
    default_variant: str = ""
    stored: StoredAs | None = attrs.field(default=None)
    earliest_us: int = EARLIEST_US

    @stored.validator
    def _check_stored(self, _: object, stored: StoredAs | None) -> None:
        if stored is not None and self.variant is not None:
            raise ValueError(f"{self.name}: a stored kind has no variants, its series would be mixed")


_ROWS = (
    Kind(
        "tick",
        Tick,
        check=TickCheck,
        wire=tick_wire,
        latest_wins=lambda _: True,
        may_wait=True,
        stored=StoredAs(
            "ticks",
            (
                StoredColumn("bid", "price"),
                StoredColumn("ask", "price"),
                StoredColumn("bid_size", "size"),
                StoredColumn("ask_size", "size"),
            ),
            candle_columns=("bid", "ask", "bid_size", "ask_size"),
            prices=prices_of_ticks,
        ),
    ),
    Kind(
        "trade",
        Trade,
        check=TradeCheck,
        wire=trade_wire,
        latest_wins=lambda _: False,
        stored=StoredAs(
            "trades",
            (
                StoredColumn("price", "price"),
                StoredColumn("size", "size"),
                StoredColumn("side", "code", {"buy": b"b", "sell": b"s"}),
                StoredColumn("trade_id", "text"),
            ),
            candle_columns=("price", "size"),
            prices=prices_of_trades,
        ),
    ),
    Kind(
        "orderbook",
        OrderBook,
        check=OrderBookCheck,
        wire=order_book_wire,
        latest_wins=lambda book: book.action == "snapshot" and book.depth != FULL_BOOK,
        may_wait=True,
        changes=lambda book: book.depth == FULL_BOOK,
        needs_before=lambda book: book.action == "update",
        cut=best_levels,
        variant=lambda book: book.depth,
        default_variant="25",
    ),
    Kind(
        "candle",
        Candle,
        check=CandleCheck,
        wire=candle_wire,
        latest_wins=lambda candle: not candle.closed,
        may_wait=True,
        variant=lambda candle: candle.interval,
    ),
)


def _no_check() -> Check:
    raise TypeError("found a gap from a broker: only the server makes gaps")


_GAP = Kind(
    "gap",
    Gap,
    check=_no_check,
    wire=gap_wire,
    latest_wins=lambda _: False,
    times=(("from_s", "from_us"), ("to_s", "to_us")),
)

BY_NAME: dict[RecordType, Kind] = {kind.name: kind for kind in _ROWS}
"""The rows by the name that clients use: the kinds that a broker may publish."""

KINDS: dict[type, Kind] = {kind.struct: kind for kind in (*_ROWS, _GAP)}
"""The rows by the class of their records; gaps are included, because they take the same path."""


def default_variant(kind: RecordType) -> str:
    """Return the variant that applies if none is named."""
    row = BY_NAME.get(kind)
    return "" if row is None else row.default_variant


def record_tables() -> list[str]:
    """Return the names of the tables that records are stored in."""
    return [kind.stored.table for kind in KINDS.values() if kind.stored is not None]
