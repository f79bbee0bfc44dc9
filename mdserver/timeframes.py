"""The lengths that candles may have, and where on the clock each candle begins. Pure: numpy, no I/O.

Some timeframes are stored (:data:`mdserver.model.TIMEFRAMES`); every other one is folded from the coarsest stored
one whose candles never straddle one of its opens.

``ny17`` is the day of foreign exchange dealers: it begins at 17:00 in New York. Seven hours added to New York's clock
make that midnight, so a candle begins where that clock shows a whole multiple of its length. On the two days of the
change of daylight saving time a candle over the change is an hour shorter or longer. No length of two hours or more
has an open within the hour that the clock shows twice.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

import attrs
import numpy as np
from numpy.typing import NDArray

from .model import TIMEFRAMES

__all__ = ["ALIGNS", "DAY_S", "Align", "Timeframe", "parse_timeframe"]

Ints: TypeAlias = NDArray[np.int64]

Align: TypeAlias = Literal["utc", "ny17"]
ALIGNS: tuple[Align, ...] = get_args(Align)

HOUR_S = 3_600
DAY_S = 86_400
_WEEK_S = 7 * DAY_S
_MONTH_S = 28 * DAY_S
"""The shortest month: what a number of candles is estimated by."""

_NY17_FROM_S = 2 * HOUR_S
"""Shorter candles begin at the same times whether aligned to New York or not."""

_MONDAY_S = 4 * DAY_S
"""The epoch was a Thursday; this is the first Monday after it."""

_TO_MIDNIGHT_S = 7 * HOUR_S
"""From 17:00 to midnight."""

_NEW_YORK = ZoneInfo("America/New_York")
_YEARS = (1970, 2200)
_NAME = re.compile(r"([1-9][0-9]{0,3})(m|h)")


@attrs.frozen
class Timeframe:
    """A length of candles. ``length_s`` is the shortest one's: weeks and months vary, and so do days in New York."""

    name: str
    length_s: int
    align: Align = "utc"

    @property
    def is_stored(self) -> bool:
        """Whether candles of exactly this timeframe are stored."""
        return self.align == "utc" and TIMEFRAMES.get(self.name) == self.length_s

    @property
    def source_s(self) -> int:
        """The length in seconds of the stored candles that these are folded from; their own if they are stored."""
        if self.is_stored:
            return self.length_s
        if self.name == "1M" or self.length_s % DAY_S == 0:
            return HOUR_S if self.align == "ny17" else DAY_S
        fits = np.gcd(self.length_s, HOUR_S) if self.align == "ny17" else self.length_s
        return max(length_s for length_s in TIMEFRAMES.values() if fits % length_s == 0)

    def opens_of(self, times_s: Ints) -> Ints:
        """Return for each time, in Unix seconds, when the candle that it belongs to begins."""
        if self.align == "utc":
            return self._floor(times_s)
        shown = times_s + _offsets(times_s) + _TO_MIDNIGHT_S
        return _utc_of(self._floor(shown) - _TO_MIDNIGHT_S)

    def open_of(self, time_s: int) -> int:
        """Return when the candle that a time belongs to begins."""
        return int(self.opens_of(np.array([time_s], np.int64))[0])

    def opens(self, from_s: int, to_s: int) -> Ints:
        """Return every open in ``[from_s, to_s]``, ascending."""
        if from_s > to_s:
            return np.zeros(0, np.int64)
        # a step shorter than every candle finds each open, some of them several times
        step_s = max(60, self.length_s - HOUR_S if self.align == "ny17" else self.length_s)
        times = np.arange(from_s, to_s + step_s, step_s, dtype=np.int64)
        found = np.unique(self.opens_of(times))
        return found[(found >= from_s) & (found <= to_s)]

    def first_from(self, time_s: int) -> int:
        """Return the first open at a time or after it."""
        open_s = self.open_of(time_s)
        return open_s if open_s == time_s else self.end_of(open_s)

    def end_of(self, open_s: int) -> int:
        """Return when a candle ends: where the next one begins."""
        if self.align == "utc":
            return self._next(open_s)
        shown = np.array([open_s], np.int64)
        shown = self._floor(shown + _offsets(shown) + _TO_MIDNIGHT_S)
        return int(_utc_of(np.array([self._next(int(shown[0]))], np.int64) - _TO_MIDNIGHT_S)[0])

    def trading_day(self, open_s: int) -> int:
        """Return midnight UTC of the date that a candle of a day or more bears: at 17:00 the next one begins."""
        if self.align == "utc":
            return open_s
        times = np.array([open_s], np.int64)
        return int((times + _offsets(times) + _TO_MIDNIGHT_S)[0]) // DAY_S * DAY_S

    def _next(self, shown_s: int) -> int:
        """Return the open after this one on a clock without daylight saving time."""
        if self.name == "1M":
            return int(self._floor(np.array([shown_s + 31 * DAY_S], np.int64))[0])
        return shown_s + self.length_s

    def _floor(self, shown_s: Ints) -> Ints:
        """Return where the candle begins on a clock without daylight saving time."""
        if self.name == "1M":
            months = shown_s.astype("datetime64[s]").astype("datetime64[M]")
            return months.astype("datetime64[s]").astype(np.int64)
        if self.length_s == _WEEK_S:
            return (shown_s - _MONDAY_S) // _WEEK_S * _WEEK_S + _MONDAY_S
        return shown_s // self.length_s * self.length_s


def parse_timeframe(text: str, align: Align = "utc") -> Timeframe:
    """Return the timeframe of a name such as ``3m``, ``90m``, ``2h``, ``1d``, ``1w``, ``1M``.

    Two names of one length give one timeframe: ``60m`` is ``1h``. Raises ValueError for anything but a whole number of
    minutes or hours that divides a day, a day, a week or a month.
    """
    if text == "1M":
        return Timeframe("1M", _MONTH_S, align)
    if text == "1w":
        return Timeframe("1w", _WEEK_S, align)
    match = _NAME.fullmatch("24h" if text == "1d" else text)
    length_s = 0 if match is None else int(match[1]) * (60 if match[2] == "m" else HOUR_S)
    if not length_s or DAY_S % length_s:
        raise ValueError(
            f"{text!r} is no timeframe: expected minutes or hours that divide a day (3m, 90m, 2h), 1d, 1w or 1M"
        )
    return Timeframe(_named(length_s), length_s, align if length_s >= _NY17_FROM_S else "utc")


def _named(length_s: int) -> str:
    if length_s == DAY_S:
        return "1d"
    return f"{length_s // HOUR_S}h" if length_s % HOUR_S == 0 else f"{length_s // 60}m"


def _offsets(times_s: Ints) -> Ints:
    """Return how far New York's clock is ahead of UTC at each time, in seconds (negative)."""
    changes, offsets = _clock()
    return offsets[np.searchsorted(changes, times_s, side="right")]


def _utc_of(shown_s: Ints) -> Ints:
    """Return when New York's clock shows these times: the first time, where it shows one twice, and the change itself
    for times that it skips."""
    changes, offsets = _clock()
    place = np.searchsorted(
        changes + offsets[:-1], shown_s, side="right"
    )  # the old offset holds up to its reading
    begun = np.concatenate(([np.iinfo(np.int64).min], changes))
    moments: Ints = np.maximum(shown_s - offsets[place], begun[place])
    return moments


@cache
def _clock() -> tuple[Ints, Ints]:
    """Return the times at which New York's clock is changed, and its offset before, between and after them."""
    first, last = (datetime(year, 1, 1, tzinfo=UTC) for year in _YEARS)
    changes: list[int] = []
    offsets = [_offset(first)]
    at = first
    while at < last:
        until = at + timedelta(days=60)  # no two changes are closer
        if _offset(until) != offsets[-1]:
            changes.append(_change(at, until))
            offsets.append(_offset(until))
        at = until
    return np.array(changes, np.int64), np.array(offsets, np.int64)


def _change(before: datetime, after: datetime) -> int:
    """Return the one change between two times by halving the span."""
    low, high = int(before.timestamp()), int(after.timestamp())
    old = _offset(before)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC)) == old:
            low = middle
        else:
            high = middle
    return high


def _offset(moment: datetime) -> int:
    shift = moment.astimezone(_NEW_YORK).utcoffset()
    if shift is None:
        raise ValueError("America/New_York has no offset")
    return round(shift.total_seconds())
