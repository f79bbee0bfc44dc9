"""A synthetic year of EURUSD: hours of ticks as a source of history hands them over, made where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mdserver.market_hours import HOUR_US, open_hours
from mdserver.model import TickColumns
from mdserver.store.store import FetchedHour

__all__ = ["END_US", "FIRST_US", "make_hours", "weeks"]

FIRST_US, END_US = (int(np.datetime64(day, "us").astype(np.int64)) for day in ("2024-01-01", "2025-01-01"))
"""The year, in microseconds."""

WEEK_US = 7 * 24 * HOUR_US

ACTIVITY = np.array([2, 2, 2, 2, 2, 2, 2, 4, 6, 6, 5, 4, 4, 5, 6, 6, 5, 4, 3, 3, 2, 1, 1, 1], float)
"""How busy each hour of the day (UTC) is: London and New York."""

POINT = 1e-5
START_POINTS = 108_000
ONE_LOT = 0.35
"""The share of the sizes that are exactly one million."""


def make_hours(ticks: int, first_us: int = FIRST_US, end_us: int = END_US) -> list[FetchedHour]:
    """Return the open hours in [first_us, end_us) with ``ticks`` ticks in all; the same ones each time."""
    rng = np.random.default_rng(1)
    starts = open_hours("fx", first_us, end_us)
    share = ACTIVITY[np.array(starts) // HOUR_US % 24] * rng.uniform(0.5, 1.5, len(starts))
    counts = rng.multinomial(ticks, share / share.sum())
    # each hour's walk ends where the next one begins, though they are made apart
    seeds = rng.integers(0, 2**31, len(starts)).tolist()
    hours, points = [], START_POINTS
    for start, count, seed in zip(starts, counts.tolist(), seeds, strict=True):
        hours.append(
            FetchedHour(
                start,
                "data" if count else "empty",
                partial(_ticks, start, count, seed, points),
                checksum=f"{seed}-{count}",
                service="synthetic",
                origin=f"year.py, seed {seed}",
            )
        )
        points += int(_steps(np.random.default_rng(seed), count).sum())
    return hours


def weeks(hours: Sequence[FetchedHour]) -> Iterator[list[FetchedHour]]:
    """Cut hours into what the importer stores in one transaction."""
    week: list[FetchedHour] = []
    for hour in hours:
        if week and hour.hour_us // WEEK_US != week[0].hour_us // WEEK_US:
            yield week
            week = []
        week.append(hour)
    if week:
        yield week


def _steps(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    return rng.integers(-2, 3, count)


def _ticks(start_us: int, count: int, seed: int, points: int) -> TickColumns:
    """Make an hour's ticks: times in whole milliseconds, prices in points, sizes in eighths of a million."""
    rng = np.random.default_rng(seed)
    bid = points + np.cumsum(_steps(rng, count))
    ask = bid + rng.integers(1, 6, count)
    ms = np.sort(rng.integers(0, HOUR_US // 1000, count))
    eighths = np.minimum(6 + rng.geometric(0.1, (2, count)), 96)
    sizes = np.where(rng.random((2, count)) < ONE_LOT, 1e6, eighths * 125_000.0)
    return TickColumns(start_us + ms * 1000, np.round(bid * POINT, 5), np.round(ask * POINT, 5), *sizes)
