"""Which records cannot be true (pure).

Records come from plugins, and nothing has looked at the types of their fields yet: one of the wrong type would spoil
its whole batch in the journal. A price must be finite, above zero and below :data:`MAX_PRICE`. A jump by more than
:data:`MAX_JUMP` against the last accepted price of the topic is a wrong scale or a corrupt message, unless the venue
insists: the same level (within the same factor) :data:`CONFIRMATIONS` times in a row is believed, so that a
redenominated symbol is not cut off for ever.
"""

from __future__ import annotations

from .candles import MAX_SIZE
from .model import Record, Tick

__all__ = ["CONFIRMATIONS", "MAX_AHEAD_US", "MAX_JUMP", "MAX_PRICE", "RecordCheck", "is_text"]

MAX_PRICE = 1e12
MAX_JUMP = 50.0
"""Dearest and cheapest believable change between two records: a factor; wrong scales are off by 10 to 1,000."""
CONFIRMATIONS = 5

MAX_AHEAD_US = 24 * 3600 * 1_000_000
"""A record dated further in the future, in microseconds, has a wrong time: it would make all after it late."""


_NUMBER = frozenset((float, int))
"""Exactly these: others (numpy's, Decimal) cannot be journalled."""
_NUMBER_OR_NONE = _NUMBER | {type(None)}


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
        if type(record.time_us) is not int:
            return "type"
        if not 0 < record.time_us <= now_us + MAX_AHEAD_US:
            return "time"
        if type(record) is Tick:
            price, other = record.bid, record.ask
            if (
                type(price) not in _NUMBER
                or type(other) not in _NUMBER
                or type(record.bid_size) not in _NUMBER_OR_NONE
                or type(record.ask_size) not in _NUMBER_OR_NONE
            ):
                return "type"
            if not self._low < price < self._high or not self._low < other < self._high:
                return self._judge(price if not self._low < price < self._high else other)
            if other < price:
                return "crossed"
            if not _plausible(record.bid_size) or not _plausible(record.ask_size):
                return "size"
        else:
            price = record.price
            if (
                type(price) not in _NUMBER
                or type(record.size) not in _NUMBER
                or record.side not in (None, "buy", "sell")
                or not (record.trade_id is None or is_text(record.trade_id))
            ):
                return "type"
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


def is_text(value: object) -> bool:
    """Say whether a value is a text that can be written: lone surrogates, as JSON may bring them, cannot."""
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plausible(size: float | None) -> bool:
    return size is None or 0.0 <= size <= MAX_SIZE
