"""Imported hours into the data lake, day by day, without a database in between.

What a ledger would know is written beside the records of each day: which hours were imported, from which file, with
which checksum. So the same command continues an interrupted import, and a later ``run lake pull`` or import into the
database knows these hours. Only closed days go there, as with ``run lake push``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

import attrs
import trio

from ...errors import BadMessage, Rejected
from ...market_hours import HOUR_US
from ...model import US_PER_S, CandleRow, LakeDay, RecordColumns, Topic
from ...plugin import Lake
from ...store.history.hour import MAX_AGE_US, BidAt
from ...store.store import FetchedHour, HourResult
from ..day_candles import candles_of_day
from .lake_day import DayMerge, needs_nothing
from .plan import Dates

__all__ = ["LakeTarget"]

DAY_US = 24 * HOUR_US

SETTLE_US = HOUR_US
"""A day is closed so long after its end, as for a push."""


@attrs.define(eq=False)
class LakeTarget:
    """The configured lake; ``source`` is the name under which the ticks are kept.

    ``replace``: a damaged day is written anew instead of being reported.
    """

    lake: Lake
    source: str
    replace: bool = False
    _known: dict[str, dict[date, LakeDay]] = attrs.Factory(dict)

    async def open_symbol(self, symbol: str, dates: Dates, *, create: bool) -> Mapping[int, bool]:
        """See :meth:`Target.open_symbol`. Nothing has to be made."""
        days = dict(await self.lake.days(self._topic(symbol), dates.first, dates.last))
        for day in days.values():
            if day.numbering:
                raise Rejected(
                    f"the lake {self.lake.address} holds live records of {self.source} {symbol} ({day.day}), which an "
                    "import would replace: give the source in `history` a name that no broker has"
                )
        self._known[symbol] = days
        return {
            hour.hour_us: hour.outcome == "empty"
            for day in days.values()
            for hour in day.hours
            if hour.settled
        }

    def over_us(self, now_us: int) -> int:
        """See :meth:`Target.over_us`: whole days that are closed."""
        return (now_us - SETTLE_US) // DAY_US * DAY_US

    async def load_hours(self, symbol: str, hours: Sequence[FetchedHour]) -> list[HourResult]:
        """See :meth:`Target.load_hours`. Each day is written when its hours are merged with what is there."""
        results: list[HourResult] = []
        known = self._known[symbol]
        symbol_known = bool(known) or any(hour.kind in ("data", "empty") for hour in hours)
        last: BidAt | None = None
        ordered = sorted(hours, key=lambda hour: hour.hour_us)
        for day, group in groupby(ordered, lambda hour: _day_of(hour.hour_us)):
            own = list(group)
            found = needs_nothing(known.get(day), own)
            if found is None:
                if last is None or _day_of(last.time_us) != day - timedelta(days=1):
                    last = await self._last_before(symbol, day) or last
                merge = await self._merge(symbol, day, own, last, symbol_known=symbol_known)
                found, last = merge.results, merge.last
            results += found
        return results

    async def _merge(
        self, symbol: str, day: date, hours: Sequence[FetchedHour], last: BidAt | None, *, symbol_known: bool
    ) -> DayMerge:
        """Write a day, if anything of it changes."""
        topic, known = self._topic(symbol), self._known[symbol].get(day)
        old: RecordColumns | None = None
        try:
            old = await self.lake.read_day(topic, day)
        except BadMessage as error:
            if not self.replace:
                return _failed(day, hours, f"{error}; --replace writes the day anew", last)
            known = None
        if old is not None and known is None:  # another program has written it since
            known = (await self.lake.days(topic, day, day)).get(day)
        now_us = time.time_ns() // 1_000
        merge = DayMerge(known or LakeDay(day, 0), old, last, now_us, symbol_known)

        def work() -> tuple[RecordColumns, list[CandleRow]] | None:
            merge.add(hours)
            if not merge.changed:
                return None
            records = merge.records()
            return records, candles_of_day(records)

        made = await trio.to_thread.run_sync(work)
        if made is not None:
            facts = merge.facts()
            await self.lake.write_day(topic, day, *made, facts)
            self._known[symbol][day] = facts
        return merge

    async def _last_before(self, symbol: str, day: date) -> BidAt | None:
        """Return the last price of the week before a day."""
        topic, week = self._topic(symbol), timedelta(microseconds=MAX_AGE_US)
        days = await self.lake.days(topic, day - week, day - timedelta(days=1))
        for one in sorted(days, reverse=True):
            if not days[one].count:
                continue
            try:
                records = await self.lake.read_day(topic, one)
            except BadMessage:
                continue  # a damaged day proves nothing; whoever reads or verifies it is told
            if records is not None and len(records.time_us):
                return BidAt(int(records.time_us[-1]), float(records.values["bid"][-1]))
        return None

    def _topic(self, symbol: str) -> Topic:
        return Topic(self.source, symbol, "tick")


def _day_of(time_us: int) -> date:
    return datetime.fromtimestamp(time_us // US_PER_S, UTC).date()


def _failed(day: date, hours: Sequence[FetchedHour], cause: str, last: BidAt | None) -> DayMerge:
    merge = DayMerge(LakeDay(day, 0), None, last, 0, symbol_known=True)
    merge.results = [HourResult(hour.hour_us, "failed", 0, cause) for hour in hours]
    return merge
