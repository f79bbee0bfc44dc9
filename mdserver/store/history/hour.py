"""Hours of ticks to import: what was fetched, what became of it, checks, 1m candles. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, TypeAlias

import numpy as np
from msgspec import Struct

from ...candles import MAX_SIZE, Candles, Prices, candles_of_prices, mid, split_sizes
from ...market_hours import HOUR_US
from ...model import US_PER_S, TickColumns
from ...record_check import MAX_JUMP, time_fault

__all__ = [
    "UNKNOWN_SYMBOL",
    "BidAt",
    "FetchedHour",
    "HourResult",
    "Known",
    "Status",
    "Verdict",
    "hour_fault",
    "is_unchanged",
    "minutes_of",
    "price_leap",
    "verdict_of",
]

MAX_SPAN = 5.0
"""The largest plausible factor between the lowest bid and the highest ask of one hour: exchanges halt trading before.
"""

MAX_AGE_US = 7 * 24 * HOUR_US
"""A last price that is older proves nothing about the next one. Long enough for weekends and holidays."""

UNKNOWN_SYMBOL = "the source has neither this hour nor any other hour of this symbol so far"

Verdict: TypeAlias = Literal["failed", "denied", "unchanged", "data", "empty"]
"""What is to be done with a fetched hour; ``data``: its ticks are to be stored."""

Status: TypeAlias = Literal["added", "replaced", "unchanged", "empty", "denied", "failed"]


class FetchedHour(Struct, frozen=True):
    """What a source answered for an hour; ``decode`` returns its ticks or raises BadMessage.

    ``missing``: the source reports that it has no such hour. ``accepted``: the same, and the operator accepts it as
    an hour without ticks. ``failed``: the fetch failed, see ``cause``. The other fields are those of the ledger.
    """

    hour_us: int
    kind: Literal["data", "empty", "missing", "accepted", "failed"]
    decode: Callable[[], TickColumns]
    checksum: str = ""
    service: str = ""
    origin: str = ""
    cause: str = ""
    settled: bool = True


class HourResult(Struct, frozen=True):
    """What was done with an hour; ``row_count`` ticks of it are stored now."""

    hour_us: int
    status: Status
    row_count: int = 0
    cause: str = ""


class BidAt(Struct, frozen=True):
    """The first or the last price of an hour."""

    time_us: int
    bid: float


class Known(Protocol):
    """What a ledger has of an hour."""

    @property
    def outcome(self) -> str: ...
    @property
    def checksum(self) -> str: ...


def verdict_of(hour: FetchedHour, known: Known | None, *, is_stored: bool, symbol_known: bool) -> Verdict:
    """Return what is to be done with an hour. ``is_stored``: it has rows, whatever the ledger says."""
    if hour.kind == "failed":
        return "failed"
    if hour.kind in ("missing", "accepted") and not (hour.settled and symbol_known):
        # not "denied": a misspelt symbol, or one that the source never had, answers for every hour like this
        return "failed"
    if hour.kind == "missing" or (hour.kind == "accepted" and is_stored):
        return "denied"
    if is_unchanged(hour, known, is_stored=is_stored):
        return "unchanged"
    return "data" if hour.kind == "data" else "empty"


def is_unchanged(hour: FetchedHour, known: Known | None, *, is_stored: bool) -> bool:
    """Return whether the ledger and the rows have this hour as it was fetched."""
    if known is None or known.outcome in ("denied", "failed"):
        return False
    if hour.kind == "data":
        return known.outcome == "ok" and known.checksum == hour.checksum and is_stored
    return known.outcome == "empty" and not is_stored


def minutes_of(ticks: TickColumns) -> Candles:
    """Return the 1m candles of an hour. The ticks are in order already: by time, then by position."""
    bid_whole, bid_fraction = split_sizes(ticks.bid_size)
    ask_whole, ask_fraction = split_sizes(ticks.ask_size)
    series = np.zeros(len(ticks.time_us), np.int64)
    return candles_of_prices(
        Prices(
            series,
            ticks.time_us,
            mid(ticks.bid, ticks.ask),
            bid_whole + ask_whole,
            bid_fraction + ask_fraction,
        )
    )


def hour_fault(ticks: TickColumns, hour_us: int, now_us: int) -> str | None:
    """Return why ticks cannot be stored as this hour, or None. A plugin may have decoded them.

    The rules are those of live records: see :mod:`mdserver.record_check`.
    """
    time_us = ticks.time_us
    if len({len(column) for column in ticks}) != 1:
        return "the columns differ in length"
    if not len(time_us):
        return None
    if time_us[0] < hour_us or time_us[-1] >= hour_us + HOUR_US or (np.diff(time_us) < 0).any():
        return "a tick is outside of its hour, or not in the order of time"
    if (fault := time_fault(hour_us, now_us)) is not None:
        when = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=hour_us)
        return f"no record can have the time {when:%Y-%m-%dT%H:%M:%SZ} ({fault})"
    for name in ("bid", "ask"):
        price = getattr(ticks, name)
        if not ((price > 0) & (price < 1e300)).all():
            return f"a {name} is not a finite number above 0"
    for name in ("bid_size", "ask_size"):
        size = getattr(ticks, name)
        if not (((size >= 0) & (size <= MAX_SIZE)) | np.isnan(size)).all():
            return f"a {name} is not between 0 and {MAX_SIZE:g}"
    if (ticks.ask < ticks.bid).any():
        row = int(np.argmax(ticks.ask < ticks.bid))
        return f"the ask {ticks.ask[row]:.15g} is below the bid {ticks.bid[row]:.15g} at tick {row}"
    low, high = float(ticks.bid.min()), float(ticks.ask.max())
    if high > low * MAX_SPAN:
        return f"the ask {high:.15g} is more than {MAX_SPAN:g} times the lowest bid of the hour, {low:.15g}"
    return None


def price_leap(first: BidAt, last: BidAt) -> str | None:
    """Return why an hour that begins with ``first`` cannot follow ``last``, or None.

    The factor is that of live records: shares are split by up to 50, and a wrong scale is mostly off by 100 or more.
    """
    recent = first.time_us - last.time_us <= MAX_AGE_US
    if not recent or last.bid / MAX_JUMP <= first.bid <= last.bid * MAX_JUMP:
        return None
    when = datetime.fromtimestamp(last.time_us // US_PER_S, UTC)
    return (
        f"the bid {first.bid:.15g} differs by more than a factor of {MAX_JUMP:g} from the one that is stored, "
        f"{last.bid:.15g} at {when:%Y-%m-%dT%H:%M:%SZ}"
    )
