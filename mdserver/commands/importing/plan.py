"""Plan an import: dates, market hours, the ledger, chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

import attrs

from ...market_hours import HOUR_US, open_hours, trades_each_open_hour
from ...plugin import HistoryInstrument

__all__ = ["Chunk", "Dates", "SymbolPlan", "last_days", "make_chunks", "plan_symbol"]

_DAY_US = 24 * HOUR_US
_EPOCH = date(1970, 1, 1)


@attrs.frozen
class Dates:
    """Whole days in UTC, both inclusive."""

    first: date
    last: date

    @property
    def first_us(self) -> int:
        return (self.first - _EPOCH).days * _DAY_US

    @property
    def end_us(self) -> int:
        """The first instant after the last day."""
        return ((self.last - _EPOCH).days + 1) * _DAY_US


@attrs.frozen
class Chunk:
    """Hours of one symbol that are stored in one transaction, ascending."""

    symbol: str
    hours_us: tuple[int, ...]


@attrs.frozen
class SymbolPlan:
    """The hours to import for a symbol (``wanted``), and how many others are left out for which reason."""

    symbol: str
    venue_symbol: str
    wanted: tuple[int, ...]
    known: int
    """Hours that are settled in the ledger."""
    known_empty: int
    """How many of those have no ticks."""
    closed: int
    before_start: int
    not_over: int
    notes_empty: bool
    """Whether an open hour without ticks is unusual."""


def last_days(days: int, now: datetime) -> Dates:
    """Return the last whole days, up to yesterday."""
    today = now.astimezone(UTC).date()
    return Dates(today - timedelta(days=days), today - timedelta(days=1))


def plan_symbol(
    instrument: HistoryInstrument, dates: Dates, settled: Mapping[int, bool], *, now_us: int, replace: bool
) -> SymbolPlan:
    """Sort the hours of a range into those to import and those to leave out.

    ``settled`` are the hours that are settled in the ledger, and whether each is empty; with ``replace`` they are
    imported again.
    """
    hours = range(dates.first_us, dates.end_us, HOUR_US)
    is_open = open_hours(instrument.market, dates.first_us, dates.end_us)
    start_us = instrument.start_us
    begun = [hour for hour in is_open if start_us is None or hour >= start_us // HOUR_US * HOUR_US]
    over = [hour for hour in begun if hour + HOUR_US <= now_us]
    known = [] if replace else [hour for hour in over if hour in settled]
    skipped = set(known)
    return SymbolPlan(
        symbol=instrument.symbol,
        venue_symbol=instrument.venue_symbol,
        wanted=tuple(hour for hour in over if hour not in skipped),
        known=len(known),
        known_empty=sum(settled[hour] for hour in known),
        closed=len(hours) - len(is_open),
        before_start=len(is_open) - len(begun),
        not_over=len(begun) - len(over),
        notes_empty=trades_each_open_hour(instrument.market),
    )


def make_chunks(plans: Sequence[SymbolPlan], dates: Dates, days: int | None) -> Iterator[Chunk]:
    """Yield the hours of all symbols in chunks of a calendar month, or of at most ``days`` whole days.

    No candle is longer than a day, so two chunks never share a candle and may be stored at the same time.
    """

    def number_of(hour_us: int) -> int:
        if days is None:
            return _month_number(hour_us)
        return (hour_us - dates.first_us) // (days * _DAY_US)

    for plan in plans:
        for _, hours in groupby(plan.wanted, number_of):
            yield Chunk(plan.symbol, tuple(hours))


def _month_number(time_us: int) -> int:
    day = _EPOCH + timedelta(days=time_us // _DAY_US)
    return day.year * 12 + day.month
