"""Market hours: the week of foreign exchange in New York's time, both halves of the year."""

from __future__ import annotations

import csv
import datetime
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.market_hours import (
    HOUR_US,
    MARKETS,
    Market,
    is_open,
    market_of,
    open_hours,
    trades_each_open_hour,
)
from mdserver.testing.recorded import recorded_folder


def us(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("last_open", "first_open"),
    [
        ("2019-02-01 21:00", "2019-02-03 22:00"),  # winter
        ("2019-07-05 20:00", "2019-07-07 21:00"),  # summer
        ("2024-03-08 21:00", "2024-03-10 21:00"),  # New York goes to summer time on this Sunday
        ("2024-11-01 20:00", "2024-11-03 22:00"),  # and back
        ("2024-03-29 20:00", "2024-03-31 21:00"),  # Europe's change does not matter
        ("2006-03-31 21:00", "2006-04-02 21:00"),  # before 2007 the change came in April
    ],
)
@pytest.mark.parametrize("market", ["fx", "session"])
def test_the_weekend(market: Market, last_open: str, first_open: str) -> None:
    last_us, first_us = us(last_open), us(first_open)
    assert is_open(market, last_us)
    assert is_open(market, first_us)
    assert open_hours(market, last_us + HOUR_US, first_us) == []
    assert len(open_hours(market, first_us, first_us + 5 * 24 * HOUR_US)) == 120


def test_a_year_of_foreign_exchange() -> None:
    hours = open_hours("fx", us("2023-01-01 00:00"), us("2024-01-01 00:00"))
    assert 52 * 120 <= len(hours) <= 52 * 120 + 2
    assert hours[0] == us("2023-01-01 22:00")


@given(st.integers(0, 4_000_000_000))
def test_crypto_never_closes(second: int) -> None:
    assert is_open("crypto", second * 1_000_000)


@given(st.integers(0, 500_000), st.integers(0, 400), st.sampled_from(MARKETS))
def test_open_hours_are_the_hours_that_are_open(start: int, count: int, market: Market) -> None:
    hours = [hour * HOUR_US for hour in range(start, start + count)]
    expected = [hour for hour in hours if is_open(market, hour)]
    assert open_hours(market, start * HOUR_US, (start + count) * HOUR_US) == expected


def test_a_range_that_begins_within_an_hour_begins_with_the_next() -> None:
    start_us = us("2024-05-01 10:00")
    assert open_hours("fx", start_us + 1, start_us + 2 * HOUR_US) == [start_us + HOUR_US]
    assert open_hours("fx", start_us, start_us) == []


def test_an_hour_without_ticks_is_only_unusual_where_trading_does_not_pause() -> None:
    assert [market for market in MARKETS if trades_each_open_hour(market)] == ["fx", "crypto"]


@pytest.mark.recorded
def test_twenty_three_years_of_gold_lie_within_the_week() -> None:
    folder = recorded_folder()
    if folder is None:
        pytest.skip("no recorded data: set MDSERVER_RECORDED_DATA to their folder")
    with gzip.open(folder / "terrylica+dukascopy-node" / "xauusd-h1-bid.csv.gz", "rt", newline="") as file:
        hours = [row["timestamp"] for row in csv.DictReader(file)]
    assert len(hours) > 20_000
    assert [hour for hour in hours if not is_open("session", us(hour))] == []


@pytest.mark.parametrize(
    ("symbol", "record_type", "market"),
    [
        ("EURUSD", "tick", "fx"),
        ("BTCUSDT", "tick", "crypto"),
        ("ANYTHING", "trade", "crypto"),
        ("XAUUSD", "tick", "session"),
        ("USA500", "tick", "session"),
    ],
)
def test_the_market_is_guessed_from_the_symbol(symbol: str, record_type: str, market: str) -> None:
    assert market_of(symbol, record_type) == market
