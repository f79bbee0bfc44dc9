"""Check which records cannot be true. Pure.

Records come from plugins, and nothing has looked at the types of their fields yet: one of the wrong type would spoil
its whole batch in the journal. A price must be finite, above zero and below :data:`MAX_PRICE`. A jump by more than
:data:`MAX_JUMP` against the last accepted price of the topic is a wrong scale or a corrupt message, unless the venue
insists: the same level (within the same factor) :data:`CONFIRMATIONS` times in a row is believed, so that a
redenominated symbol is not cut off for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .candles import MAX_SIZE
from .model import TIMEFRAMES, US_PER_S, Candle, Level, OrderBook, Tick, Trade

__all__ = [
    "CONFIRMATIONS",
    "EARLIEST_US",
    "MAX_AHEAD_US",
    "MAX_ID_BYTES",
    "MAX_JUMP",
    "MAX_LEVELS",
    "MAX_PRICE",
    "CandleCheck",
    "OrderBookCheck",
    "TickCheck",
    "TradeCheck",
    "is_text",
    "time_fault",
]

MAX_PRICE = 1e12
MAX_JUMP = 50.0
"""The largest plausible factor, up or down, between two records' prices; a wrong scale is off by 10 to 1,000."""
CONFIRMATIONS = 5

MAX_AHEAD_US = 24 * 3600 * 1_000_000
"""A record dated further in the future, in microseconds, has a wrong time: it would make all after it late."""

EARLIEST_US = 631_152_000_000_000
"""1990-01-01: no venue's records are older; one dated before has a wrong time and would spoil what is earliest."""

MAX_ID_BYTES = 64
"""The longest trade id, in bytes of UTF-8; a UUID has 36."""

MAX_LEVELS = 5_000
"""Levels on one side of an order book: Binance's deepest snapshot has as many."""

_NUMBER = frozenset((float, int))
"""Exactly these: others (numpy's, Decimal) cannot be journalled."""
_NUMBER_OR_NONE = _NUMBER | {type(None)}


class _PriceBand:
    """The plausible prices of a topic, learned from its earlier ones."""

    __slots__ = ("_high", "_low", "_strange", "_strange_level")

    def __init__(self) -> None:
        self._low = 0.0
        self._high = MAX_PRICE
        self._strange = 0
        self._strange_level = 0.0

    def _judge(self, price: float) -> str:
        if not 0.0 < price < MAX_PRICE:  # also true of NaN
            return "price"
        same_level = self._strange_level / MAX_JUMP < price < self._strange_level * MAX_JUMP
        self._strange = self._strange + 1 if same_level else 1
        self._strange_level = price
        if self._strange >= CONFIRMATIONS:
            self._low, self._high, self._strange = price / MAX_JUMP, price * MAX_JUMP, 0
        return "jump"


class TickCheck(_PriceBand):
    """The check of one topic's ticks."""

    __slots__ = ()

    def fault(self, record: Tick) -> str | None:
        """Return why a record cannot be true, as a metric's label, or None."""
        bid, ask, bid_size, ask_size = record.bid, record.ask, record.bid_size, record.ask_size
        if (
            type(bid) not in _NUMBER
            or type(ask) not in _NUMBER
            or type(bid_size) not in _NUMBER_OR_NONE
            or type(ask_size) not in _NUMBER_OR_NONE
        ):
            return "type"
        if not self._low < bid < self._high or not self._low < ask < self._high:
            return self._judge(bid if not self._low < bid < self._high else ask)
        if ask < bid:
            return "crossed"
        if bid_size is not None and not 0.0 <= bid_size <= MAX_SIZE:
            return "size"
        if ask_size is not None and not 0.0 <= ask_size <= MAX_SIZE:
            return "size"
        self._low, self._high, self._strange = bid / MAX_JUMP, bid * MAX_JUMP, 0
        return None


class TradeCheck(_PriceBand):
    """The check of one topic's trades."""

    __slots__ = ()

    def fault(self, record: Trade) -> str | None:
        """Return why a record cannot be true, as a metric's label, or None."""
        price, trade_id = record.price, record.trade_id
        if (
            type(price) not in _NUMBER
            or type(record.size) not in _NUMBER
            or record.side not in (None, "buy", "sell")
            or not (trade_id is None or type(trade_id) is str)
        ):
            return "type"
        # up to 16 letters and digits are at most 64 bytes, and nearly all ids are such: one call instead of five
        usual = trade_id is None or (len(trade_id) <= 16 and trade_id.isalnum())
        if not usual and not is_text(trade_id, MAX_ID_BYTES):
            return "trade_id"
        if not self._low < price < self._high:
            return self._judge(price)
        if not 0.0 <= record.size <= MAX_SIZE:
            return "size"
        self._low, self._high, self._strange = price / MAX_JUMP, price * MAX_JUMP, 0
        return None


class OrderBookCheck(_PriceBand):
    """The check of one topic's order books: sorted sides, best first, that do not cross."""

    __slots__ = ()

    def fault(self, record: OrderBook) -> str | None:
        """Return why a record cannot be true, as a metric's label, or None."""
        if record.action not in ("snapshot", "update"):
            return "type"
        for side in (record.bids, record.asks):
            if type(side) is not tuple or not all(map(_is_level, side)):
                return "type"
            if len(side) > MAX_LEVELS:
                return "size"
            for price, size in side:
                if not self._low < price < self._high:
                    return self._judge(price)
                if not 0.0 <= size <= MAX_SIZE:
                    return "size"
        bids, asks = record.bids, record.asks
        if record.action == "snapshot" and not (_ascends(asks) and _ascends(bids[::-1])):
            return "order"
        if record.action == "snapshot" and bids and asks and asks[0][0] < bids[0][0]:
            return "crossed"
        if bids or asks:
            price = (bids or asks)[0][0]
            self._low, self._high, self._strange = price / MAX_JUMP, price * MAX_JUMP, 0
        return None


class CandleCheck(_PriceBand):
    """The check of one topic's candles: an open on the interval's grid, prices within the range."""

    __slots__ = ()

    def fault(self, record: Candle) -> str | None:
        """Return why a record cannot be true, as a metric's label, or None."""
        prices = record.open, record.high, record.low, record.close
        if (
            type(record.count) is not int
            or type(record.volume) not in _NUMBER
            or any(type(price) not in _NUMBER for price in prices)
            or type(record.closed) is not bool
            or type(record.revised) is not bool
        ):
            return "type"
        length_s = TIMEFRAMES.get(record.interval)
        if length_s is None:
            return "interval"
        if record.time_us % (length_s * US_PER_S):
            return "time"
        for price in prices:
            if not self._low < price < self._high:
                return self._judge(price)
        if not record.low <= min(record.open, record.close) <= max(record.open, record.close) <= record.high:
            return "range"
        if not (record.volume >= 0.0 and record.count >= 0):
            return "size"
        self._low, self._high, self._strange = record.close / MAX_JUMP, record.close * MAX_JUMP, 0
        return None


def is_text(value: object, most_bytes: int) -> bool:
    """Return whether a value is a text of at most so many bytes that can be written.

    Lone surrogates, as JSON may bring them, cannot be encoded; PostgreSQL holds no NUL.
    """
    if type(value) is not str or len(value) > most_bytes or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        return len(value.encode()) <= most_bytes
    except UnicodeEncodeError:
        return False


def time_fault(time_us: object, now_us: int, earliest_us: int = EARLIEST_US) -> str | None:
    """Return why a time is not plausible, as a metric's label, or None; a time in another unit is recognised.

    Plausible is what lies between ``earliest_us`` and :data:`MAX_AHEAD_US` after ``now_us``.
    """
    if type(time_us) is not int:
        return "type"
    latest_us = now_us + MAX_AHEAD_US
    if earliest_us <= time_us <= latest_us:
        return None
    for label, in_us in (("time_in_ms", time_us * 1_000), ("time_in_s", time_us * US_PER_S)):
        if earliest_us <= in_us <= latest_us:
            return label
    return "time_in_ns" if earliest_us <= time_us // 1_000 <= latest_us else "time"


def _is_level(level: object) -> bool:
    return (
        type(level) is tuple and len(level) == 2 and type(level[0]) in _NUMBER and type(level[1]) in _NUMBER
    )


def _ascends(side: Sequence[Level]) -> bool:
    return all(one[0] < other[0] for one, other in pairwise(side))
