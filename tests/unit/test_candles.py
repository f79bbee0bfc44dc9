"""Candles against a naive reference, at once and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver import candles
from mdserver.model import TIMEFRAMES


class Row(NamedTuple):
    series: int
    time_us: int
    seq: int
    bid: float
    ask: float
    bid_size: float | None
    ask_size: float | None


def mid(bid: float, ask: float) -> float:
    """One mid price; the rounding has a test of its own."""
    return float(candles.mid(np.array([bid]), np.array([ask]))[0])


prices = st.floats(1e-8, 1e8, allow_subnormal=False)
sizes = st.none() | st.floats(0, candles.MAX_SIZE) | st.decimals(0, 1000, places=8).map(float)
times = st.integers(0, 3 * 86_400_000_000) | st.integers(0, 200).map(lambda n: n * 30_000_000)


@st.composite
def rows(draw: st.DrawFn, min_size: int = 0) -> list[Row]:
    one = st.tuples(st.integers(1, 3), times, prices, prices, sizes, sizes)
    drawn = draw(st.lists(one, min_size=min_size, max_size=40))
    return [Row(series, time, seq, *rest) for seq, (series, time, *rest) in enumerate(drawn)]


def column(values: Sequence[float | None]) -> candles.Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def prices_of(drawn: list[Row]) -> candles.Prices:
    series, time_us, seq = (np.array([row[i] for row in drawn], np.int64) for i in range(3))
    return candles.prices_of_ticks(
        series, time_us, seq, *(column([row[i] for row in drawn]) for i in range(3, 7))
    )


def exact(size: float | None) -> Decimal:
    """The size to 1e-8: the whole part exactly, the rest as the float product says, rounded half even."""
    if size is None:
        return Decimal(0)
    whole = Decimal(size).to_integral_value(ROUND_FLOOR)
    return whole + Decimal(round((size - float(whole)) * 1e8)) / 10**8


def naive(drawn: list[Row], timeframe_s: int) -> list[tuple[object, ...]]:
    buckets: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(drawn, key=lambda row: row[:3]):
        key = row.series, row.time_us // 1_000_000 // timeframe_s * timeframe_s
        buckets.setdefault(key, []).append(row)
    result = []
    for key, members in sorted(buckets.items()):
        mids = [mid(row.bid, row.ask) for row in members]
        volume = sum((exact(row.bid_size) + exact(row.ask_size) for row in members), Decimal(0))
        result.append((*key, mids[0], max(mids), min(mids), mids[-1], volume, len(members)))
    return result


def plain(table: candles.Candles) -> list[tuple[object, ...]]:
    columns = [values.tolist() for values in table]
    return [
        (*row[:6], Decimal(row[6]) + Decimal(row[7]) / candles.FRACTIONS, row[8])
        for row in zip(*columns, strict=True)
    ]


@given(rows())
def test_every_timeframe_equals_the_naive_reference(drawn: list[Row]) -> None:
    levels = candles.all_timeframes(candles.candles_of_prices(prices_of(drawn)))
    assert list(levels) == list(TIMEFRAMES.values())
    for timeframe_s, table in levels.items():
        assert plain(table) == naive(drawn, timeframe_s)


@given(rows(min_size=1))
def test_folding_from_1m_equals_folding_from_rows(drawn: list[Row]) -> None:
    one_minute = candles.candles_of_prices(prices_of(drawn))
    levels = candles.all_timeframes(one_minute)
    for timeframe_s, table in levels.items():
        assert plain(candles.fold(one_minute, timeframe_s)) == plain(table)


@given(rows(min_size=1), st.lists(st.integers(0, 40), max_size=5))
def test_parts_merge_to_the_whole(drawn: list[Row], cuts: list[int]) -> None:
    whole = prices_of(drawn)
    bounds = sorted({0, len(drawn), *(cut for cut in cuts if cut < len(drawn))})
    parts = [
        candles.all_timeframes(candles.candles_of_prices(candles.Prices(*(values[a:b] for values in whole))))
        for a, b in pairwise(bounds)
    ]
    for timeframe_s, table in candles.all_timeframes(candles.candles_of_prices(whole)).items():
        assert plain(candles.merge([part[timeframe_s] for part in parts], timeframe_s)) == plain(table)


@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(drawn: list[Row], random: object) -> None:
    mixed = list(drawn)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert plain(candles.candles_of_prices(prices_of(mixed))) == plain(
        candles.candles_of_prices(prices_of(drawn))
    )


def test_trades_make_candles_of_their_own_price_and_size() -> None:
    ints = np.array([1, 1, 1], np.int64)
    rows_ = candles.prices_of_trades(
        ints,
        np.array([61_000_000, 60_000_000, 61_000_000]),
        np.array([3, 1, 2]),
        column([3, 1, 2]),
        column([0.1] * 3),
    )
    assert plain(candles.candles_of_prices(rows_)) == [(1, 60, 1.0, 3.0, 1.0, 3.0, Decimal("0.3"), 3)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0.1, (0, 10_000_000)),
        (12.5, (12, 50_000_000)),
        (0.999999999, (0, 100_000_000)),
        (np.nan, (0, 0)),
        (1e13, (10**13, 0)),
    ],
)
def test_sizes_are_split_exactly(size: float, expected: tuple[int, int]) -> None:
    whole, fraction = candles.split_sizes(np.array([size]))
    assert (int(whole[0]), int(fraction[0])) == expected


def test_the_bound_on_sizes_keeps_the_sums_within_an_int64() -> None:
    count = 400_000
    ones = np.ones(count, np.int64)
    most = np.full(count, candles.MAX_SIZE)
    rows_ = candles.prices_of_ticks(ones, ones, ones, most, most, most, most)
    assert int(candles.candles_of_prices(rows_).whole[0]) == 2 * count * 10**13


@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(1, 10**11), st.integers(0, 10**4)), min_size=1, max_size=20),
)
def test_a_mid_prints_as_the_decimal_that_it_is(decimals: int, quotes: list[tuple[int, int]]) -> None:
    quotes = [(bid, spread) for bid, spread in quotes if bid + spread < 10**11]
    scale = 10**decimals
    bid = np.array([b / scale for b, _ in quotes])
    ask = np.array([(b + spread) / scale for b, spread in quotes])
    exact = [(Decimal(2 * b + spread) / 2) / scale for b, spread in quotes]
    assert [Decimal(repr(float(m))) for m in candles.mid(bid, ask)] == exact
