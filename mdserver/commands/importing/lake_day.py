"""A day of an import into the lake: what it becomes when hours are added or revised. Pure.

The rules are those of an import into the database (``store/history/load_hours.py``), and so are the results: the day
has the same rows, candles and ledger as one that was imported there and pushed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from ...errors import BadMessage
from ...market_hours import HOUR_US
from ...model import (
    NOT_RECEIVED,
    ImportedHour,
    LakeDay,
    RecordColumns,
    TickColumns,
)
from ...store.history.hour import (
    UNKNOWN_SYMBOL,
    BidAt,
    FetchedHour,
    HourResult,
    Status,
    hour_fault,
    is_unchanged,
    price_leap,
    verdict_of,
)

__all__ = ["DayMerge", "needs_nothing"]

_NAMES = ("bid", "ask", "bid_size", "ask_size")


def needs_nothing(known: LakeDay | None, hours: Sequence[FetchedHour]) -> list[HourResult] | None:
    """Return what becomes of hours that change nothing of a day, None if its records are needed to tell."""
    ledger = {} if known is None else {hour.hour_us: hour for hour in known.hours}
    if known is not None and sum(hour.count for hour in known.hours) != known.count:
        return None  # it has rows of hours that nobody imported
    results = []
    for hour in hours:
        old = ledger.get(hour.hour_us)
        count = 0 if old is None else old.count
        if old is not None and is_unchanged(hour, old, is_stored=count > 0) and old.settled == hour.settled:
            results.append(HourResult(hour.hour_us, "unchanged", count))
        elif hour.kind == "failed":
            results.append(HourResult(hour.hour_us, "failed", count, hour.cause))
        else:
            return None
    return results


@attrs.define(eq=False)
class DayMerge:
    """One day. ``last``: the last price before it, if one is recent; afterwards that of its end."""

    known: LakeDay
    old: RecordColumns | None
    last: BidAt | None
    now_us: int
    symbol_known: bool
    results: list[HourResult] = attrs.Factory(list)
    changed: bool = False
    _ledger: dict[int, ImportedHour] = attrs.Factory(dict)
    _ticks: dict[int, TickColumns] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        self._ledger = {hour.hour_us: hour for hour in self.known.hours}
        if self.old is not None:
            self._ticks = _by_hour(self.old)

    def add(self, hours: Sequence[FetchedHour]) -> None:
        """Take in the fetched hours, and pass by those that stay, in the order of time."""
        fetched = {hour.hour_us: hour for hour in hours}
        for hour_us in sorted({*fetched, *self._ticks}):
            if hour_us in fetched:
                self._add(fetched[hour_us])
            if hour_us in self._ticks:
                self.last = _end_of(self._ticks[hour_us])

    def records(self) -> RecordColumns:
        """Return the records of the day; ``seq`` is the position within the hour, from 1."""
        hours = [self._ticks[hour_us] for hour_us in sorted(self._ticks)]
        columns: list[Any] = [np.concatenate(column) for column in zip(*hours, strict=True)] or _NOTHING
        seq = [np.arange(1, len(hour.time_us) + 1, dtype=np.int64) for hour in hours]
        return RecordColumns(
            columns[0],
            np.concatenate(seq) if seq else np.empty(0, np.int64),
            np.full(len(columns[0]), NOT_RECEIVED),
            dict(zip(_NAMES, columns[1:], strict=True)),
        )

    def facts(self) -> LakeDay:
        """Return what is written beside the records."""
        count = sum(len(ticks.time_us) for ticks in self._ticks.values())
        return LakeDay(self.known.day, count, "", tuple(self._ledger[at] for at in sorted(self._ledger)))

    def _add(self, hour: FetchedHour) -> None:
        known = self._ledger.get(hour.hour_us)
        stored = self._ticks.get(hour.hour_us)
        verdict = verdict_of(hour, known, is_stored=stored is not None, symbol_known=self.symbol_known)
        kept = 0 if known is None else known.count
        if verdict == "failed":
            self._note(hour, "failed", kept, hour.cause or UNKNOWN_SYMBOL)
        elif verdict == "denied":
            self._note(hour, "denied", kept, hour.cause)
        elif verdict == "unchanged":
            if known is not None and known.settled != hour.settled:
                self._record(hour, kept)
            self._note(hour, "unchanged", kept)
        elif verdict == "data":
            self._add_data(hour, stored, kept)
        else:
            self._put(hour, None)
            self._note(hour, "empty", 0)

    def _add_data(self, hour: FetchedHour, stored: TickColumns | None, kept: int) -> None:
        try:
            ticks = hour.decode()
            if problem := hour_fault(ticks, hour.hour_us, self.now_us) or self._wrong_scale(ticks, stored):
                raise BadMessage(f"{hour.origin}: {problem}")
        except BadMessage as error:
            self._note(hour, "failed", kept, str(error))
            return
        count = len(ticks.time_us)
        self._put(hour, ticks if count else None)
        self._note(hour, "empty" if not count else "added" if stored is None else "replaced", count)

    def _wrong_scale(self, ticks: TickColumns, stored: TickColumns | None) -> str | None:
        """Compare with the price before, or with the price that it would replace."""
        before = self.last if stored is None else _start_of(stored)
        if before is None or not len(ticks.time_us):
            return None
        return price_leap(_start_of(ticks), before)

    def _put(self, hour: FetchedHour, ticks: TickColumns | None) -> None:
        self._ticks.pop(hour.hour_us, None)
        if ticks is not None:
            self._ticks[hour.hour_us] = ticks
        self._record(hour, 0 if ticks is None else len(ticks.time_us))

    def _record(self, hour: FetchedHour, count: int) -> None:
        self.changed = True
        self._ledger[hour.hour_us] = ImportedHour(
            hour.hour_us,
            "ok" if count else "empty",
            count,
            hour.checksum if count else "",
            hour.service,
            hour.origin,
            hour.settled,
        )

    def _note(self, hour: FetchedHour, status: Status, count: int, cause: str = "") -> None:
        self.results.append(HourResult(hour.hour_us, status, count, cause))


_NOTHING = [np.empty(0, np.int64), *(np.empty(0) for _ in _NAMES)]


def _by_hour(records: RecordColumns) -> dict[int, TickColumns]:
    hours = records.time_us // HOUR_US * HOUR_US
    starts = np.unique(hours)
    bounds = [*np.searchsorted(hours, starts).tolist(), len(hours)]
    columns = [records.time_us, *(records.values[name] for name in _NAMES)]
    return {
        hour_us: TickColumns(*(column[first:end] for column in columns))
        for hour_us, first, end in zip(starts.tolist(), bounds[:-1], bounds[1:], strict=True)
    }


def _start_of(ticks: TickColumns) -> BidAt:
    return BidAt(int(ticks.time_us[0]), float(ticks.bid[0]))


def _end_of(ticks: TickColumns) -> BidAt:
    return BidAt(int(ticks.time_us[-1]), float(ticks.bid[-1]))
