"""``GET /api/coverage``."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.model import US_PER_S
from mdserver.store.store import CoverageDay
from mdserver.web.api.coverage_view import gap_seconds

from .conftest import DAY, T0

FRIDAY = T0 + 2 * DAY


def gap(from_s: float, to_s: float) -> tuple[int, int]:
    return int(from_s * US_PER_S), int(to_s * US_PER_S)


async def test_each_day_between_the_first_and_the_last_is_told(site: Any) -> None:
    site.store.days = [
        CoverageDay(1, FRIDAY, 20, 5_000, 1, 2),
        CoverageDay(1, FRIDAY + 3 * DAY, 1, 7, 0, 0),
        CoverageDay(2, FRIDAY, 24, 9, 0, 0),
    ]
    answer = await (await site.get(f"/api/coverage?symbol=eur/usd&from={T0}&to={T0 + 6 * DAY}")).get_json()
    days = {(one["broker"], one["record_type"]): one["days"] for one in answer["series"]}
    assert answer["symbol"] == "EURUSD"
    assert days["oanda", "tick"] == [
        {
            "time": FRIDAY,
            "records": 5_000,
            "hours": 20,
            "open_hours": 21,
            "empty_hours": 1,
            "failed_hours": 2,
            "gap_s": 0,
        },
        {
            "time": FRIDAY + DAY,
            "records": 0,
            "hours": 0,
            "open_hours": 0,
            "empty_hours": 0,
            "failed_hours": 0,
            "gap_s": 0,
        },
        {
            "time": FRIDAY + 2 * DAY,
            "records": 0,
            "hours": 0,
            "open_hours": 3,
            "empty_hours": 0,
            "failed_hours": 0,
            "gap_s": 0,
        },
        {
            "time": FRIDAY + 3 * DAY,
            "records": 7,
            "hours": 1,
            "open_hours": 24,
            "empty_hours": 0,
            "failed_hours": 0,
            "gap_s": 0,
        },
    ]
    assert [day["hours"] for day in days["binance", "tick"]] == [24]
    assert days["binance", "trade"] == []


async def test_a_gap_that_lasts_counts_until_now(site: Any) -> None:
    site.store.days = [CoverageDay(1, T0 - DAY, 20, 5_000, 0, 0), CoverageDay(1, T0, 20, 5_000, 0, 0)]
    site.store.open_gaps = {1: [((T0 + 3_600) * US_PER_S, None)]}
    site.now_s = T0 + 3 * 3_600
    answer = await (
        await site.get(f"/api/coverage?symbol=EURUSD&from={T0 - DAY}&to={T0 + 6 * DAY}")
    ).get_json()
    (days,) = [
        one["days"] for one in answer["series"] if (one["broker"], one["record_type"]) == ("oanda", "tick")
    ]
    assert [day["gap_s"] for day in days] == [0, 2 * 3_600]


def test_what_two_gaps_cover_is_counted_once_and_each_day_by_itself() -> None:
    gaps = [gap(T0 - 50, T0 + 10.5), gap(T0 + 5, T0 + 20), gap(T0 + DAY - 1, T0 + 2 * DAY + 4)]
    assert gap_seconds(gaps, T0, T0 + 3 * DAY) == {T0: 21.0, T0 + DAY: DAY, T0 + 2 * DAY: 4.0}
    assert gap_seconds([], T0, T0 + DAY) == {}


@pytest.mark.parametrize(
    ("query", "status", "code", "param"),
    [
        ("", 400, "missing_parameter", "symbol"),
        ("?symbol=NOPE", 404, "unknown_symbol", "symbol"),
        (f"?symbol=EURUSD&from={T0}&to={T0 - 1}", 400, "invalid_parameter", "from"),
        ("?symbol=EURUSD&from=0", 400, "range_too_large", "from"),
        (f"?symbol=EURUSD&to={T0}000", 400, "invalid_parameter", "to"),
        ("?symbol=EURUSD&days=3", 400, "invalid_parameter", "days"),
    ],
)
async def test_what_cannot_be_answered_names_the_parameter(
    site: Any, query: str, status: int, code: str, param: str
) -> None:
    problem = await site.problem(f"/api/coverage{query}")
    assert (problem["status"], problem["code"], problem["param"]) == (status, code, param)
