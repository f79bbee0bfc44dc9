"""What the HTTP routes need from the rest of the server, and nothing more.

The routes see the store, the brokers and the clock through these protocols, so a test gives them fakes and
the web layer never imports what composes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import attrs

from ...candles import QuotePrice
from ...metrics import Metrics
from ...model import RecordType

__all__ = [
    "BrokerInfo",
    "BrokerStateLike",
    "CandleColumnsLike",
    "Dependencies",
    "ReadStore",
    "RowPosition",
    "SeriesLike",
    "TickColumnsLike",
    "TradeColumnsLike",
]

RowPosition: TypeAlias = tuple[int, int]
"""A place within a series: (time in microseconds, seq). Pages go on behind it."""


class SeriesLike(Protocol):
    """One (broker, symbol, record type) of the store, with the counters that say when its data changed."""

    @property
    def id(self) -> int: ...
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
    def hist_v(self) -> int: ...
    @property
    def live_v(self) -> int: ...


class CandleColumnsLike(Protocol):
    """Candles by column, ascending; ``time`` is the open in Unix seconds."""

    @property
    def time(self) -> Sequence[int]: ...
    @property
    def open(self) -> Sequence[float]: ...
    @property
    def high(self) -> Sequence[float]: ...
    @property
    def low(self) -> Sequence[float]: ...
    @property
    def close(self) -> Sequence[float]: ...
    @property
    def volume(self) -> Sequence[float]: ...


class TickColumnsLike(Protocol):
    """Ticks by column, ascending by (time, seq)."""

    @property
    def time_us(self) -> Sequence[int]: ...
    @property
    def seq(self) -> Sequence[int]: ...
    @property
    def bid(self) -> Sequence[float]: ...
    @property
    def ask(self) -> Sequence[float]: ...
    @property
    def bid_size(self) -> Sequence[float | None]: ...
    @property
    def ask_size(self) -> Sequence[float | None]: ...


class TradeColumnsLike(Protocol):
    """Trades by column, ascending by (time, seq)."""

    @property
    def time_us(self) -> Sequence[int]: ...
    @property
    def seq(self) -> Sequence[int]: ...
    @property
    def price(self) -> Sequence[float]: ...
    @property
    def size(self) -> Sequence[float]: ...
    @property
    def side(self) -> Sequence[Literal["buy", "sell"] | None]: ...
    @property
    def trade_id(self) -> Sequence[str | None]: ...


class ReadStore(Protocol):
    """The reading half of the store. Every method raises ``StoreUnavailable`` while the database is away."""

    async def series(self, symbol: str | None = None) -> Sequence[SeriesLike]:
        """Return the series of one symbol, or all of them."""
        ...

    async def candles(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> CandleColumnsLike:
        """Return the candles that open in [from_s, to_s]."""
        ...

    async def side_candles(
        self, series_id: int, timeframe_s: int, from_s: int, to_s: int, side: QuotePrice
    ) -> CandleColumnsLike:
        """Return the bid or ask candles that open in [from_s, to_s]: computed from that many ticks."""
        ...

    async def count_ticks(self, series_id: int, timeframe_s: int, from_s: int, to_s: int) -> int:
        """Return how many stored ticks make the candles that open in [from_s, to_s]."""
        ...

    async def ticks(
        self, series_id: int, from_us: int, to_us: int, *, after: RowPosition | None, limit: int
    ) -> TickColumnsLike:
        """Return the first ``limit`` ticks in [from_us, to_us] that come behind ``after``."""
        ...

    async def trades(
        self, series_id: int, from_us: int, to_us: int, *, after: RowPosition | None, limit: int
    ) -> TradeColumnsLike:
        """Return the first ``limit`` trades in [from_us, to_us] that come behind ``after``."""
        ...


class BrokerStateLike(Protocol):
    """The state of one broker, as its supervisor knows it; times are Unix seconds."""

    @property
    def name(self) -> str: ...
    @property
    def plugin(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def attempt(self) -> int: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def last_event(self) -> float | None: ...
    @property
    def feeds(self) -> int: ...


@attrs.frozen
class BrokerInfo:
    """A configured broker: its name and the record type from which its charts are drawn."""

    name: str
    candles_from: RecordType = "tick"


@attrs.frozen
class Dependencies:
    """Everything that the HTTP routes use.

    ``store`` is None where storing is switched off. ``broker_order`` is the order of the config. ``ready``
    gives the reasons why the server is not ready; none means ready. ``flush_s`` is how old a forming candle
    may be. A closed candle is promised not to change only after ``settle_s``: late records and the repair of
    a gap come before that.
    """

    store: ReadStore | None
    broker_states: Callable[[], Sequence[BrokerStateLike]]
    broker_order: tuple[BrokerInfo, ...]
    ready: Callable[[], Sequence[str]]
    metrics: Metrics
    now_us: Callable[[], int]
    flush_s: float = 0.25
    settle_s: float = 86_400.0
    cors_origins: tuple[str, ...] = ()
