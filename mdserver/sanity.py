"""Which records cannot be true (pure).

A price must be finite, above zero and below :data:`MAX_PRICE`. A jump by more than :data:`MAX_JUMP` against the
last accepted price of the topic is a wrong scale or a corrupt message, unless the venue insists: the same level
(within the same factor) :data:`CONFIRMATIONS` times in a row is believed, so that a redenominated symbol is not cut off
for ever.
"""

from __future__ import annotations

from .candles import MAX_SIZE
from .model import Record, Tick

__all__ = ["CONFIRMATIONS", "MAX_AHEAD_US", "MAX_JUMP", "MAX_PRICE", "RecordCheck"]

MAX_PRICE = 1e12
MAX_JUMP = 50.0
"""Dearest and cheapest believable change between two records: a factor; wrong scales are off by 10 to 1,000."""
CONFIRMATIONS = 5

MAX_AHEAD_US = 24 * 3600 * 1_000_000
"""A record dated further in the future, in microseconds, has a wrong time: it would make all after it late."""


class RecordCheck:
    """The check of one topic's records."""

    __slots__ = ("_high", "_low", "_strange", "_strange_level")

    def __init__(self) -> None:
        self._low = 0.0
        self._high = MAX_PRICE
        self._strange = 0
        self._strange_level = 0.0

    def fault(self, record: Record, now_us: int) -> str | None:
        """Return why a record cannot be true, as a metric's label, or None."""
        if not 0 < record.time_us <= now_us + MAX_AHEAD_US:
            return "time"
        if type(record) is Tick:
            price, other = record.bid, record.ask
            if not self._low < price < self._high or not self._low < other < self._high:
                return self._judge(price if not self._low < price < self._high else other)
            if other < price:
                return "crossed"
            if not _plausible(record.bid_size) or not _plausible(record.ask_size):
                return "size"
        else:
            price = record.price
            if not self._low < price < self._high:
                return self._judge(price)
            if not _plausible(record.size):
                return "size"
        self._low, self._high, self._strange = price / MAX_JUMP, price * MAX_JUMP, 0
        return None

    def _judge(self, price: float) -> str:
        if not 0.0 < price < MAX_PRICE:  # also true of NaN
            return "price"
        same_level = self._strange_level / MAX_JUMP < price < self._strange_level * MAX_JUMP
        self._strange = self._strange + 1 if same_level else 1
        self._strange_level = price
        if self._strange >= CONFIRMATIONS:
            self._low, self._high, self._strange = price / MAX_JUMP, price * MAX_JUMP, 0
        return "jump"


def _plausible(size: float | None) -> bool:
    return size is None or 0.0 <= size <= MAX_SIZE
