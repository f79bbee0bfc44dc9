"""The records that a stream gives and history has. ``time`` and all other times are Unix seconds, UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Literal, TypeAlias, TypedDict

from msgspec import Struct, field

__all__ = [
    "BrokerState",
    "Candle",
    "Gap",
    "Level",
    "OrderBook",
    "Position",
    "Record",
    "RecordType",
    "SessionError",
    "StateChange",
    "StoredCandle",
    "Tick",
    "Time",
    "Trade",
    "seconds",
    "utc",
]

RecordType: TypeAlias = Literal["tick", "trade", "candle", "orderbook"]

Time: TypeAlias = float | datetime | str
"""Unix seconds, an aware ``datetime``, or an ISO 8601 text (without offset: UTC)."""

Level: TypeAlias = tuple[float, float]
"""A price of an order book, and the size there."""


class Position(TypedDict):
    """Where a stream stands: the last record of each topic. Given as ``since``, the next one begins behind it."""

    epoch: str | None
    seqs: list[tuple[str, str, str, int]]


class Tick(Struct, frozen=True, gc=False, tag_field="type", tag="tick"):
    """The best bid and ask.

    ``seq`` counts by one for each broker, symbol and type. ``conflated``: how many older ones this one stands for,
    since the loop was too slow for them. ``received``: when the server's socket had it, where that was asked for.
    """

    type: ClassVar[Literal["tick"]] = "tick"
    broker: str
    symbol: str
    seq: int
    time: float
    bid: float
    ask: float
    bid_size: float | None = None
    ask_size: float | None = None
    received: float | None = None
    conflated: int = 0
    snapshot: bool = False


class Trade(Struct, frozen=True, gc=False, tag_field="type", tag="trade"):
    """An execution; ``side`` is the aggressor's."""

    type: ClassVar[Literal["trade"]] = "trade"
    broker: str
    symbol: str
    seq: int
    time: float
    price: float
    size: float
    side: Literal["buy", "sell"] | None = None
    trade_id: str | None = None
    received: float | None = None
    conflated: int = 0
    snapshot: bool = False


class OrderBook(Struct, frozen=True, tag_field="type", tag="orderbook"):
    """The levels of both sides, best first; with ``depth`` "full", changes of them between snapshots."""

    type: ClassVar[Literal["orderbook"]] = "orderbook"
    broker: str
    symbol: str
    seq: int
    time: float
    bids: list[Level]
    asks: list[Level]
    depth: int | str | None = None
    received: float | None = None
    conflated: int = 0
    snapshot: bool = False


class Candle(Struct, frozen=True, gc=False, tag_field="type", tag="candle"):
    """A candle while it forms, and once with ``closed``; ``time`` is its open.

    ``revised`` where a late record changed a closed one. One that the server makes has no ``seq``.
    """

    type: ClassVar[Literal["candle"]] = "candle"
    broker: str
    symbol: str
    interval: str
    time: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int
    closed: bool
    revised: bool = False
    seq: int | None = None
    received: float | None = None
    conflated: int = 0
    snapshot: bool = False


class Gap(Struct, frozen=True, gc=False, tag_field="type", tag="gap"):
    """Records may be missing between two times: those of the last one before and the first one after.

    ``cause`` is the server's, or the client's own: ``missed``, ``epoch``, ``not_stored``, ``history_unavailable``,
    ``disconnected``. ``to_time`` is None while it lasts; ``size`` is how many are missing where that is known.
    """

    type: ClassVar[Literal["gap"]] = "gap"
    broker: str
    symbol: str
    record_type: str
    from_time: float = field(name="from")
    cause: str
    state: Literal["open", "filled", "permanent"] = "open"
    to_time: float | None = field(name="to", default=None)
    size: int | None = None

    @property
    def time(self) -> float:
        """Its end, as far as it is known."""
        return self.from_time if self.to_time is None else self.to_time

    @property
    def seq(self) -> None:
        """None: a gap has no number."""
        return None


Record: TypeAlias = Tick | Trade | Candle | OrderBook | Gap


class StoredCandle(Struct, frozen=True, gc=False):
    """A candle of history; ``time`` is its open.

    What was not among the ``fields`` asked for is None; so are prices that ``fill="null"`` leaves open.
    """

    time: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int | None = None
    vwap: float | None = None
    broker: str | None = None
    complete: bool | None = None


class SessionError(Struct, frozen=True):
    """The end of one of a broker's sessions."""

    time: float
    outcome: str
    message: str


class StateChange(Struct, frozen=True):
    """A state that a broker entered."""

    time: float
    state: str
    message: str


class BrokerState(Struct, frozen=True):
    """How a broker is doing; ``errors`` and ``changes`` are the last ten, newest first."""

    broker: str
    plugin: str
    state: str
    since: float
    attempt: int
    last_error: str | None
    last_event: float | None
    feeds: int
    active: int
    refused: dict[str, str]
    errors: list[SessionError]
    changes: list[StateChange]


def seconds(time: Time) -> float:
    """Return Unix seconds. Raises ValueError for a ``datetime`` without time zone and for a text that is no time."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{time!r} has no time zone; expected one, such as tzinfo=datetime.UTC")
        return time.timestamp()
    return time


def utc(time_s: float) -> datetime:
    """Return a record's time as a ``datetime``, exact to the microsecond."""
    whole, micro = divmod(round(time_s * 1_000_000), 1_000_000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=micro)
