"""Candles from ticks and trades, for many series at once: pure numpy, no I/O.

A tick counts with its mid price (see :func:`mid`), or with its bid or its ask, a trade with its own. Rows are
ordered by (series, time, seq): the first opens a candle, the last closes it. Sums of sizes are exact and hence the
same in any order: a size is split into whole units and hundred-millionths, each summed as int64. PostgreSQL does the
same arithmetic (see ``store/recompute_candles.py``), so a candle computed there equals one computed here bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .model import TIMEFRAMES, US_PER_S

__all__ = [
    "FRACTIONS",
    "MAX_SIZE",
    "Candles",
    "Floats",
    "Ints",
    "Prices",
    "QuotePrice",
    "all_timeframes",
    "candles_of_prices",
    "fold",
    "fold_to",
    "merge",
    "mid",
    "prices_of_ticks",
    "prices_of_trades",
    "split_sizes",
]

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

QuotePrice: TypeAlias = Literal["mid", "bid", "ask"]
"""Which price of a tick a candle is made from."""

FRACTIONS = 100_000_000
"""Hundred-millionths (the resolution of a volume) in one unit of size."""

MAX_SIZE = 1e13
"""The largest size that is summed: a candle of 400 000 ticks of this size still fits an int64."""

MID_SCALES = ((1e-3, 1e18), (1e3, 1e12), (1e6, 1e9), (1e9, 1e6))
"""Upper bound of a mid price, and what it is scaled by to be rounded; above the last, by :data:`MID_SCALE_ABOVE`."""

MID_SCALE_ABOVE = 1e3

MINUTE_S = TIMEFRAMES["1m"]


class Prices(NamedTuple):
    """Rows that make candles, one array per column, all of one length, sorted by (series, time, seq).

    ``whole`` and ``fraction`` are the row's size in units and hundred-millionths.
    """

    series: Ints
    time_us: Ints
    price: Floats
    whole: Ints
    fraction: Ints


class Candles(NamedTuple):
    """Candles of one timeframe, one array per column, sorted by (series, time).

    ``time`` is the open time in seconds; the volume is ``whole + fraction / FRACTIONS`` with
    ``0 <= fraction < FRACTIONS``; ``row_count`` is the number of ticks or trades.
    """

    series: Ints
    time: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    whole: Ints
    fraction: Ints
    row_count: Ints


def split_sizes(sizes: Floats) -> tuple[Ints, Ints]:
    """Return the sizes as whole units and hundred-millionths; NaN (not given) is 0.

    A size is at least 0 and at most :data:`MAX_SIZE`. The fraction may be ``FRACTIONS`` itself, by rounding.
    """
    given = np.where(np.isnan(sizes), 0.0, sizes)
    floor = np.floor(given)
    return floor.astype(np.int64), np.rint((given - floor) * FRACTIONS).astype(np.int64)


def mid(bid: Floats, ask: Floats) -> Floats:
    """Return the mid prices, rounded to about 15 significant digits.

    The sum of two decimals is rarely the nearest float to their decimal sum: 1.08484 and 1.08486 would make
    1.0848499999999999, digits that no venue sent. Rounding by a power of ten that keeps the product below 1e15
    gives the float that prints as 1.08485. PostgreSQL rounds alike (halves to even).
    """
    middle = (bid + ask) / 2
    scale = np.select(
        [middle < bound for bound, _ in MID_SCALES], [by for _, by in MID_SCALES], MID_SCALE_ABOVE
    )
    rounded: Floats = np.rint(middle * scale) / scale
    return rounded


def prices_of_ticks(
    series: Ints,
    time_us: Ints,
    seq: Ints,
    bid: Floats,
    ask: Floats,
    bid_size: Floats,
    ask_size: Floats,
    price: QuotePrice = "mid",
) -> Prices:
    """Return the prices of ticks in any order; sizes that the venue does not give are NaN.

    The size of a mid price is that of both sides, that of a bid or ask its own.
    """
    if price != "mid":
        value, size = (bid, bid_size) if price == "bid" else (ask, ask_size)
        return _sorted(Prices(series, time_us, value, *split_sizes(size)), seq)
    bid_whole, bid_fraction = split_sizes(bid_size)
    ask_whole, ask_fraction = split_sizes(ask_size)
    rows = Prices(series, time_us, mid(bid, ask), bid_whole + ask_whole, bid_fraction + ask_fraction)
    return _sorted(rows, seq)


def prices_of_trades(series: Ints, time_us: Ints, seq: Ints, price: Floats, size: Floats) -> Prices:
    """Return the prices of trades in any order."""
    return _sorted(Prices(series, time_us, price, *split_sizes(size)), seq)


def candles_of_prices(rows: Prices) -> Candles:
    """Return the 1m candles of sorted rows."""
    return fold(
        Candles(
            rows.series,
            rows.time_us // US_PER_S,
            *(rows.price,) * 4,
            rows.whole,
            rows.fraction,
            np.ones(len(rows.series), np.int64),
        ),
        MINUTE_S,
    )


def fold(candles: Candles, timeframe_s: int) -> Candles:
    """Return the candles of a coarser timeframe, a multiple of theirs; aligned to midnight UTC."""
    return fold_to(candles, candles.time // timeframe_s * timeframe_s)


def fold_to(candles: Candles, opens: Ints) -> Candles:
    """Return the coarser candles that these belong to; ``opens`` has the open of each one's, in seconds."""
    if not len(candles.time):
        return candles
    series = candles.series
    changes = (opens[1:] != opens[:-1]) | (series[1:] != series[:-1])
    first = np.flatnonzero(np.concatenate(([True], changes)))
    last = np.concatenate((first[1:], [len(opens)])) - 1
    fraction = np.add.reduceat(candles.fraction, first)
    return Candles(
        series[first],
        opens[first],
        candles.open[first],
        np.maximum.reduceat(candles.high, first),
        np.minimum.reduceat(candles.low, first),
        candles.close[last],
        np.add.reduceat(candles.whole, first) + fraction // FRACTIONS,
        fraction % FRACTIONS,
        np.add.reduceat(candles.row_count, first),
    )


def merge(parts: Sequence[Candles], timeframe_s: int) -> Candles:
    """Return the candles of all parts as one.

    Where parts hold the same candle, its rows must come in the order of the parts: the first part
    that has it opens it and the last closes it.
    """
    joined = Candles._make(np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((joined.time, joined.series))  # stable: equal keys stay in the order of the parts
    return fold(Candles._make(column[order] for column in joined), timeframe_s)


def all_timeframes(one_minute: Candles) -> dict[int, Candles]:
    """Return the candles of each timeframe of the model by its length in seconds, folded from the 1m ones."""
    levels = {}
    finest = one_minute
    for timeframe_s in sorted(TIMEFRAMES.values()):  # each is a multiple of the one before
        finest = fold(finest, timeframe_s)
        levels[timeframe_s] = finest
    return levels


def _sorted(rows: Prices, seq: Ints) -> Prices:
    order = np.lexsort((seq, rows.time_us, rows.series))
    return Prices._make(column[order] for column in rows)
