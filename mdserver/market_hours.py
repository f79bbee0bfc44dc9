"""When markets are open, by the hour. Pure.

Foreign exchange trades from Sunday 17:00 to Friday 17:00 in New York, so the hour in UTC moves with New York's
daylight saving time. Everything else that a dealer quotes trades within that week, in sessions of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from .model import US_PER_S

__all__ = ["HOUR_US", "MARKETS", "Market", "is_open", "market_of", "open_hours", "trades_each_open_hour"]

Market: TypeAlias = Literal["fx", "session", "crypto"]
"""``fx``: the whole week of foreign exchange. ``session``: parts of that week that differ by instrument
(metals, indices, commodities, shares). ``crypto``: always open."""

MARKETS: tuple[Market, ...] = ("fx", "session", "crypto")

HOUR_US = 3_600 * US_PER_S

_DAY_US = 24 * HOUR_US
_NEW_YORK = ZoneInfo("America/New_York")
_CLOSE_HOUR = 17
_FRIDAY, _SATURDAY, _SUNDAY = 4, 5, 6

_CRYPTO = frozenset(("BTC", "ETH", "USDT", "USDC", "LTC", "XRP", "SOL", "BNB"))
_CURRENCIES = frozenset(
    (
        *("AUD", "BRL", "CAD", "CHF", "CNH", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "JPY", "MXN"),
        *("NOK", "NZD", "PLN", "RON", "RUB", "SEK", "SGD", "THB", "TRY", "USD", "ZAR"),
    )
)


def is_open(market: Market, hour_us: int) -> bool:
    """Return whether there can be ticks in the hour that begins at ``hour_us`` (microseconds since the epoch).

    Holidays count as open, and a ``session`` market counts as open in the whole week of foreign exchange:
    False is certain, True is not.
    """
    if market == "crypto":
        return True
    day_us = hour_us // _DAY_US * _DAY_US
    opens_us, closes_us = _open_part(day_us)
    return opens_us <= hour_us < closes_us


def market_of(symbol: str, record_type: str) -> Market:
    """Guess from its name when a symbol is traded; ``session`` if unknown: only weekends are certain then."""
    base, quote = symbol[:3], symbol[3:]
    if base in _CURRENCIES and quote in _CURRENCIES:
        return "fx"
    if record_type == "trade" or base in _CRYPTO or any(symbol.endswith(one) for one in _CRYPTO):
        return "crypto"
    return "session"


def open_hours(market: Market, from_us: int, to_us: int) -> list[int]:
    """Return the starts of the open hours in [from_us, to_us), ascending; the first one is rounded up."""
    first_us = -(-from_us // HOUR_US) * HOUR_US
    return [hour_us for hour_us in range(first_us, to_us, HOUR_US) if is_open(market, hour_us)]


def trades_each_open_hour(market: Market) -> bool:
    """Return whether an open hour without a tick is unusual: it is not if sessions differ by instrument."""
    return market != "session"


@cache  # one entry for each day asked about
def _open_part(day_us: int) -> tuple[int, int]:
    """Return the open part of a UTC day as [start, end) in microseconds; empty on a closed day.

    17:00 in New York is 21:00 or 22:00 UTC, hence on the same day in both.
    """
    weekday = datetime.fromtimestamp(day_us / US_PER_S, UTC).weekday()
    if weekday == _SATURDAY:
        return day_us, day_us
    if weekday == _FRIDAY:
        return day_us, _close_us(day_us)
    if weekday == _SUNDAY:
        return _close_us(day_us), day_us + _DAY_US
    return day_us, day_us + _DAY_US


def _close_us(day_us: int) -> int:
    day = datetime.fromtimestamp(day_us / US_PER_S, UTC)
    close = datetime(day.year, day.month, day.day, _CLOSE_HOUR, tzinfo=_NEW_YORK)
    return round(close.timestamp()) * US_PER_S
