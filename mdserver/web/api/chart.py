"""Read candles of a symbol: one decision for ``/api/candles`` and TradingView's UDF, whatever the timeframe.

Each bucket is from the source that :mod:`.bucket_choice` chooses. A limited request reads windows from the end that it
wants, each longer than the one before, until it has enough: so the last hundred candles of ten years cost what a
hundred cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import attrs
import trio

from ...model import US_PER_S
from ...store.store import MAX_TICKS, CandleColumns, SeriesInfo, TooManyTicks
from ...timeframes import DAY_S, Timeframe
from .bucket_choice import Buckets, Chosen, Cut, choose_buckets
from .problem import Problem
from .read_context import Reading
from .series_choice import Price

__all__ = ["COLUMNS", "Chart", "ChartReader", "Value"]

Value: TypeAlias = Literal["open", "high", "low", "close", "volume", "count"]
COLUMNS: tuple[Value, ...] = get_args(Value)

_JOIN_INLINE = 5_000
"""Up to so many candles of several sources are joined in the event loop, in some milliseconds; more in a thread."""

_GROWTH = 4
"""Each window is so many times longer than the one before."""


@attrs.frozen
class Chart:
    """Candles by column, ascending; ``origin`` has for each its place in ``series``, those that may answer."""

    candles: CandleColumns
    origin: Sequence[int]
    series: Sequence[SeriesInfo]

    def __len__(self) -> int:
        return len(self.candles.time)

    def part(self, start: int, stop: int) -> Chart:
        """Return the candles ``start`` to ``stop``, as a slice does."""
        columns = {name: getattr(self.candles, name)[start:stop] for name in ("time", *COLUMNS)}
        return Chart(CandleColumns(**columns), self.origin[start:stop], self.series)

    def used(self) -> list[SeriesInfo]:
        """Return the series that the candles are from, in the order of preference; the first if there are none."""
        return [self.series[place] for place in sorted(set(self.origin))] or list(self.series[:1])


@attrs.frozen
class ChartReader:
    """Reads one symbol's candles from the series that may answer, in order of preference."""

    reading: Reading
    series: Sequence[SeriesInfo]
    timeframe: Timeframe
    price: Price | None

    async def bounds_s(self) -> tuple[int, int] | None:
        """Return the opens of the first and the last candle that there may be, None if there are none."""
        found = await self.reading.store.candle_days([one.id for one in self.series])
        if found is None:
            return None
        first_s, last_s = found[0], found[1] + DAY_S - 1
        # no candle is behind the last record; but candles outlive records that retention drops
        latest = [one.latest_us for one in self.series if one.latest_us is not None]
        if latest:
            last_s = min(last_s, max(latest) // US_PER_S)
        return self.timeframe.open_of(first_s), self.timeframe.open_of(last_s)

    async def read(self, first_s: int, last_s: int) -> Chart:
        """Return the candles whose opens are in ``[first_s, last_s]``; both are opens."""
        if first_s > last_s:
            return self._empty()
        found = [await self._of_series(one, first_s, last_s) for one in self.series]
        having = [place for place, candles in enumerate(found) if candles.time]
        if not having:
            return self._empty()
        if len(having) == 1:
            candles = found[having[0]]
            return Chart(candles, having * len(candles.time), self.series)
        columns = [found[place] for place in having]
        sources = [
            Buckets(
                found[place].time,
                self.series[place].earliest_us,
                await self.gaps(self.series[place], first_s, last_s),
            )
            for place in having
        ]

        def join() -> Chart:
            chosen = choose_buckets(
                sources, self.timeframe.end_of if self.varies else self.timeframe.length_s
            )
            return Chart(_gathered(columns, chosen), [having[one.source] for one in chosen], self.series)

        if sum(len(candles.time) for candles in columns) <= _JOIN_INLINE:
            return join()
        # it touches nothing shared, so a cancelled request need not wait for it
        return await trio.to_thread.run_sync(join, abandon_on_cancel=True)

    async def read_some(
        self, first_s: int, last_s: int, most: int, *, newest: bool
    ) -> tuple[Chart, int, int]:
        """Return at least ``most`` of the candles in ``[first_s, last_s]``, the earliest or the newest, if there are
        as many; with the range of opens that was read for it."""
        bounds = await self.bounds_s()
        if bounds is None:
            return self._empty(), first_s, last_s
        first_s, last_s = max(first_s, bounds[0]), min(last_s, bounds[1])
        length_s, windows, have = most * self.timeframe.length_s, list[Chart](), 0
        begin_s, end_s = (last_s, last_s) if newest else (first_s, first_s)
        edge_s = last_s if newest else first_s
        while first_s <= edge_s <= last_s and have < most:
            if newest:
                begin_s = max(first_s, self.timeframe.open_of(edge_s - length_s))
                windows.insert(0, await self.read(begin_s, edge_s))
                edge_s = self.timeframe.open_of(begin_s - 1)
            else:
                end_s = min(last_s, self.timeframe.open_of(edge_s + length_s))
                windows.append(await self.read(edge_s, end_s))
                edge_s = self.timeframe.end_of(end_s)
            have += len(windows[0 if newest else -1])
            length_s *= _GROWTH
        return (_joined(windows) if windows else self._empty()), begin_s, end_s

    async def gaps(self, series: SeriesInfo, first_s: int, last_s: int) -> Sequence[tuple[int, int]]:
        """Return the recorded gaps of a series from the open of one candle to the end of another."""
        return await self.reading.gaps(series, first_s, self.timeframe.end_of(last_s))

    async def cuts(self, series: Sequence[SeriesInfo], first_s: int, last_s: int) -> list[Cut]:
        """Return for each series what tells its incomplete candles in a range."""
        end_of = self.timeframe.end_of
        return [
            Cut(Buckets([], one.earliest_us, await self.gaps(one, first_s, last_s)), end_of) for one in series
        ]

    @property
    def varies(self) -> bool:
        """Whether candles differ in length."""
        return self.timeframe.align != "utc" or self.timeframe.name == "1M"

    async def _of_series(self, series: SeriesInfo, first_s: int, last_s: int) -> CandleColumns:
        side = self.price if self.price in ("bid", "ask") else None
        try:
            return await self.reading.store.candles_of(series, self.timeframe, first_s, last_s, side)
        except TooManyTicks as error:
            detail = (
                f"{side} candles are computed from the ticks once, and {error.ticks} are still to be read from `from` "
                f"to `to`; expected at most {MAX_TICKS}: narrow the range"
            )
            raise Problem(400, "range_too_large", detail, param="to") from None

    def _empty(self) -> Chart:
        return Chart(CandleColumns(), [], self.series)


def _joined(windows: Sequence[Chart]) -> Chart:
    """Join consecutive windows."""
    if len(windows) == 1:
        return windows[0]
    names = ("time", *COLUMNS)
    columns = {name: [value for one in windows for value in getattr(one.candles, name)] for name in names}
    return Chart(
        CandleColumns(**columns), [place for one in windows for place in one.origin], windows[0].series
    )


def _gathered(columns: Sequence[CandleColumns], chosen: Sequence[Chosen]) -> CandleColumns:
    values = {
        name: [getattr(columns[one.source], name)[one.row] for one in chosen] for name in ("time", *COLUMNS)
    }
    return CandleColumns(**values)
