"""What an import has to do: dates, market hours, what is known, chunks."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.commands.importing.plan import Dates, last_days, make_chunks, plan_symbol
from mdserver.market_hours import HOUR_US, Market
from mdserver.plugin import HistoryInstrument

DAY_US = 24 * HOUR_US
FAR_US = 10**17


def instrument(market: Market = "fx", start_us: int | None = None) -> HistoryInstrument:
    return HistoryInstrument("EURUSD", "EURUSD", market, start_us)


def test_last_days_end_yesterday_in_utc() -> None:
    now = datetime.fromisoformat("2024-03-10T23:30:00-05:00")  # the 11th in UTC
    assert last_days(7, now) == Dates(date(2024, 3, 4), date(2024, 3, 10))
    assert last_days(1, datetime(2024, 3, 1, tzinfo=UTC)) == Dates(date(2024, 2, 29), date(2024, 2, 29))


def test_dates_are_inclusive() -> None:
    dates = Dates(date(2024, 2, 29), date(2024, 3, 1))
    assert dates.end_us - dates.first_us == 2 * DAY_US
    assert dates.first_us == round(datetime(2024, 2, 29, tzinfo=UTC).timestamp()) * 1_000_000


def test_each_reason_has_its_count() -> None:
    dates = Dates(date(2024, 3, 8), date(2024, 3, 11))  # the weekend on which summer time begins
    start_us = dates.first_us + 2 * HOUR_US + 5
    now_us = dates.end_us - HOUR_US - 1
    settled = {dates.first_us + 3 * HOUR_US: False, dates.first_us + 4 * HOUR_US: True, 0: False}
    plan = plan_symbol(instrument("fx", start_us), dates, settled, now_us=now_us, replace=False)
    assert (plan.before_start, plan.not_over, plan.known, plan.known_empty) == (2, 2, 2, 1)
    assert plan.closed == 96 - (22 + 3 + 24)
    assert len(plan.wanted) == 49 - 2 - 2 - 2
    again = plan_symbol(instrument("fx", start_us), dates, settled, now_us=now_us, replace=True)
    assert (again.known, len(again.wanted)) == (0, 45)


@pytest.mark.parametrize(("market", "notes"), [("fx", True), ("crypto", True), ("session", False)])
def test_an_empty_open_hour_is_unusual_where_the_market_never_pauses(market: Market, notes: bool) -> None:
    dates = Dates(date(2024, 3, 4), date(2024, 3, 4))
    assert plan_symbol(instrument(market), dates, {}, now_us=FAR_US, replace=False).notes_empty is notes


@given(
    first=st.dates(date(2003, 1, 1), date(2030, 1, 1)),
    length=st.integers(1, 60),
    chunk=st.integers(1, 31),
    market=st.sampled_from(["fx", "session", "crypto"]),
    known=st.sets(st.integers(0, 60 * 24)),
)
def test_chunks_hold_each_wanted_hour_once_and_share_no_day(
    first: date, length: int, chunk: int, market: Market, known: set[int]
) -> None:
    dates = Dates(first, first + timedelta(days=length - 1))
    settled = {dates.first_us + number * HOUR_US: False for number in known}
    plan = plan_symbol(instrument(market), dates, settled, now_us=FAR_US, replace=False)
    assert len(plan.wanted) + plan.known + plan.closed == length * 24
    chunks = list(make_chunks([plan], dates, chunk))
    assert tuple(hour for one in chunks for hour in one.hours_us) == plan.wanted
    days = [{hour // DAY_US for hour in one.hours_us} for one in chunks]
    assert sum(map(len, days)) == len(set().union(*days))
    assert all(max(one) - min(one) < chunk for one in days)
