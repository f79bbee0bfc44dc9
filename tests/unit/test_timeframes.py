"""Where candles of every timeframe begin and end, against the standard library's calendar."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import TIMEFRAMES
from mdserver.timeframes import DAY_S, Align, Timeframe, parse_timeframe

NEW_YORK = ZoneInfo("America/New_York")
NAMES = ["1m", "3m", "45m", "90m", "2h", "160m", "3h", "4h", "288m", "6h", "8h", "12h", "1d", "1w", "1M"]

moments = st.integers(0, 4_102_444_800)  # until 2100


def at(*parts: int, zone: ZoneInfo | None = None) -> int:
    return round(datetime(*parts, tzinfo=zone or UTC).timestamp())


@pytest.mark.parametrize("align", ["utc", "ny17"])
@given(moment=moments, name=st.sampled_from(NAMES))
def test_each_moment_is_in_one_candle(align: Align, moment: int, name: str) -> None:
    timeframe = parse_timeframe(name, align)
    open_s = timeframe.open_of(moment)
    end_s = timeframe.end_of(open_s)
    assert open_s <= moment < end_s
    assert timeframe.open_of(open_s) == open_s
    assert timeframe.open_of(end_s - 1) == open_s
    assert timeframe.open_of(end_s) == end_s
    assert timeframe.first_from(moment) == (open_s if moment == open_s else end_s)


@pytest.mark.parametrize("align", ["utc", "ny17"])
@given(moment=moments, name=st.sampled_from(NAMES), length_s=st.integers(-10, 40 * DAY_S))
def test_opens_are_all_there_are(align: Align, moment: int, name: str, length_s: int) -> None:
    timeframe = parse_timeframe(name, align)
    length_s = min(length_s, 50 * timeframe.length_s)
    expected = []
    open_s = timeframe.first_from(moment)
    while open_s <= moment + length_s:
        expected.append(open_s)
        open_s = timeframe.end_of(open_s)
    assert timeframe.opens(moment, moment + length_s).tolist() == expected


@given(moment=moments, name=st.sampled_from(NAMES), align=st.sampled_from(["utc", "ny17"]))
def test_no_stored_candle_that_it_is_folded_from_straddles_an_open(
    moment: int, name: str, align: Align
) -> None:
    timeframe = parse_timeframe(name, align)
    assert timeframe.source_s in TIMEFRAMES.values()
    assert timeframe.open_of(moment) % timeframe.source_s == 0


@pytest.mark.parametrize(
    ("name", "align", "source"),
    [
        *(("3m", "utc", "1m"), ("10m", "utc", "5m"), ("90m", "utc", "30m"), ("2h", "utc", "1h")),
        *(("8h", "utc", "4h"), ("1w", "utc", "1d"), ("1M", "utc", "1d"), ("1d", "utc", "1d")),
        *(("1d", "ny17", "1h"), ("4h", "ny17", "1h"), ("1w", "ny17", "1h"), ("160m", "ny17", "5m")),
    ],
)
def test_it_is_folded_from_the_coarsest_stored_timeframe_that_fits(
    name: str, align: Align, source: str
) -> None:
    assert parse_timeframe(name, align).source_s == TIMEFRAMES[source]


def test_a_dealers_day_begins_at_17_in_new_york_over_both_changes_of_the_clock() -> None:
    """2024: clocks go forward on 10 March and back on 3 November, both Sundays."""
    day = parse_timeframe("1d", "ny17")
    for year, month, first in ((2024, 3, 8), (2024, 11, 1)):
        begin = at(year, month, first, 17, zone=NEW_YORK)
        expected = [
            round((datetime(year, month, first, 17, tzinfo=NEW_YORK) + timedelta(days=n)).timestamp())
            for n in range(5)
        ]
        assert day.opens(begin, expected[-1]).tolist() == expected
    spring = at(2024, 3, 9, 17, zone=NEW_YORK)
    autumn = at(2024, 11, 2, 17, zone=NEW_YORK)
    assert day.end_of(spring) - spring == 23 * 3_600
    assert day.end_of(autumn) - autumn == 25 * 3_600
    assert day.trading_day(spring) == at(2024, 3, 10)
    assert day.trading_day(day.end_of(spring)) == at(2024, 3, 11)


@pytest.mark.parametrize("name", ["2h", "4h", "8h", "12h"])
def test_dealers_hours_stay_where_new_yorks_clock_shows_them(name: str) -> None:
    timeframe = parse_timeframe(name, "ny17")
    opens = timeframe.opens(at(2024, 1, 1), at(2024, 12, 31))
    shown = {datetime.fromtimestamp(one, NEW_YORK).strftime("%H:%M") for one in opens.tolist()}
    step = timeframe.length_s // 3_600
    assert shown == {f"{(17 + n) % 24:02}:00" for n in range(0, 24, step)}


def test_weeks_begin_on_monday_and_dealers_weeks_on_sunday_17_00() -> None:
    assert parse_timeframe("1w").open_of(at(2024, 3, 20, 12)) == at(2024, 3, 18)
    assert parse_timeframe("1w", "ny17").open_of(at(2024, 3, 20, 12)) == at(2024, 3, 17, 17, zone=NEW_YORK)
    assert parse_timeframe("1w").open_of(0) == at(1969, 12, 29)


def test_months_are_those_of_the_calendar() -> None:
    month = parse_timeframe("1M")
    assert month.opens(at(2024, 1, 31), at(2024, 4, 1)).tolist() == [
        at(2024, 2, 1),
        at(2024, 3, 1),
        at(2024, 4, 1),
    ]
    assert month.end_of(at(2024, 2, 1)) == at(2024, 3, 1)
    assert parse_timeframe("1M", "ny17").open_of(at(2024, 3, 31, 22)) == at(2024, 3, 31, 17, zone=NEW_YORK)


@pytest.mark.parametrize(
    ("name", "same"), [("60m", "1h"), ("240m", "4h"), ("24h", "1d"), ("1440m", "1d"), ("5m", "5m")]
)
def test_two_names_of_one_length_are_one_timeframe(name: str, same: str) -> None:
    assert parse_timeframe(name) == parse_timeframe(same) == Timeframe(same, TIMEFRAMES[same])


@pytest.mark.parametrize(
    "name", ["", "0m", "7m", "5h", "25h", "2d", "1W", "1mo", "m", "01m", "1.5h", "-1m", "٣m"]
)
def test_what_is_no_timeframe_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="is no timeframe: expected minutes or hours that divide a day"):
        parse_timeframe(name)


def test_what_is_shorter_than_two_hours_begins_at_the_same_times_in_both() -> None:
    assert parse_timeframe("90m", "ny17") == parse_timeframe("90m")


def test_many_times_at_once_are_as_one_by_one() -> None:
    timeframe = parse_timeframe("1d", "ny17")
    times = np.arange(at(2023, 1, 1), at(2025, 1, 1), 7_919)
    assert timeframe.opens_of(times).tolist() == [timeframe.open_of(int(one)) for one in times]
