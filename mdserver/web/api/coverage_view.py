"""``GET /api/coverage``: what is stored of each day of a symbol, a series for each of its sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from quart import Request

from ...market_hours import Market, is_open, market_of
from ...model import US_PER_S
from ...protocol.times import TIMES, Times
from ...store.store import CoverageDay, SeriesInfo
from .bucket_choice import Interval
from .params import query_of, symbol_of, time_range_us, times_of
from .problem import Problem
from .read_context import MAX_GAPS, Reading

__all__ = ["MAX_DAYS", "QUERY", "coverage_document", "gap_seconds"]

QUERY = ("symbol", "from", "to", "times")
MAX_DAYS = 800
DEFAULT_DAYS = 366

_HOUR_S = 3_600
_DAY_S = 86_400


async def coverage_document(request: Request, reading: Reading) -> dict[str, Any]:
    """Return the coverage of a symbol; by default of the year up to now."""
    query = query_of(request.args.items(multi=True), QUERY)
    symbol, times = symbol_of(query), times_of(query)
    now_s = reading.services.now_us() // US_PER_S
    default = {"to": query.get("to", str(now_s)), "from": str(max(0, now_s - DEFAULT_DAYS * _DAY_S))}
    first_us, last_us = time_range_us({**default, **query})
    first_s, end_s = _days_around(first_us, last_us)
    series = await reading.series_of(symbol)
    found = await reading.store.coverage([one.id for one in series if one.id], first_s, end_s)
    until_us = min(end_s, now_s) * US_PER_S
    holes = {
        one.id: await reading.store.missing_times(one.id, first_s * US_PER_S, until_us, limit=MAX_GAPS)
        for one in series
        if one.id
    }
    gaps = {
        series_id: [(from_us, until_us if to_us is None else to_us) for from_us, to_us in theirs]
        for series_id, theirs in holes.items()
    }
    return {
        "symbol": symbol,
        "series": [
            {
                "broker": one.broker,
                "record_type": one.type,
                "days": _days_of(one, found, gaps.get(one.id, []), (first_s, end_s), times),
            }
            for one in series
        ],
    }


def _days_around(first_us: int, last_us: int) -> tuple[int, int]:
    """Return the start of the first day and the end of the last. Raises Problem if there are too many."""
    day_us = _DAY_S * US_PER_S
    first, end = first_us // day_us, last_us // day_us + 1
    if end - first > MAX_DAYS:
        detail = f"from and to are {end - first} days apart: at most {MAX_DAYS} in one answer"
        raise Problem(400, "range_too_large", detail, param="from")
    return first * _DAY_S, end * _DAY_S


def _days_of(
    series: SeriesInfo,
    found: Iterable[CoverageDay],
    gaps: Iterable[Interval],
    span_s: tuple[int, int],
    times: Times,
) -> list[dict[str, Any]]:
    """Return every day of the range between the first and the last one that anything is known of."""
    known = {day.day_s: day for day in found if day.series_id == series.id}
    if not known:
        return []
    in_gap = gap_seconds(gaps, *span_s)
    market = market_of(series.symbol, series.type)
    show = TIMES[times]
    return [
        {"time": show(day_s * US_PER_S), **_day(day_s, known, in_gap, market)}
        for day_s in range(min(known), max(known) + 1, _DAY_S)
    ]


def _day(
    day_s: int, known: Mapping[int, CoverageDay], in_gap: Mapping[int, float], market: Market
) -> dict[str, Any]:
    day = known.get(day_s)
    return {
        "records": 0 if day is None else day.records,
        "hours": 0 if day is None else day.hours,
        "open_hours": _open_hours(market, day_s),
        "empty_hours": 0 if day is None else day.empty,
        "failed_hours": 0 if day is None else day.failed,
        "gap_s": round(in_gap.get(day_s, 0.0), 6),
    }


@lru_cache(maxsize=8_192)
def _open_hours(market: Market, day_s: int) -> int:
    return sum(is_open(market, (day_s + hour * _HOUR_S) * US_PER_S) for hour in range(24))


def gap_seconds(gaps: Iterable[Interval], first_s: int, end_s: int) -> dict[int, float]:
    """Return how much of each day lies in a gap; what two gaps cover is counted once."""
    spans: Sequence[tuple[float, float]] = sorted(
        (max(first_s, from_us / US_PER_S), min(end_s, to_us / US_PER_S)) for from_us, to_us in gaps
    )
    days: defaultdict[int, float] = defaultdict(float)
    covered = float(first_s)
    for start, end in spans:
        at = max(start, covered)
        while at < end:
            day_s = int(at) // _DAY_S * _DAY_S
            until = min(end, day_s + _DAY_S)
            days[day_s] += until - at
            at = until
        covered = max(covered, end)
    return days
