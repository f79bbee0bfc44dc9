"""Times as clients see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.protocol.times import TIMES, Times, parse_times


@pytest.mark.parametrize(
    ("times", "whole", "fraction"),
    [
        ("s", "1710918000", "1710918000.123456"),
        ("ms", "1710918000000", "1710918000123.456"),
        ("us", "1710918000000000", "1710918000123456"),
        ("iso", '"2024-03-20T07:00:00.000000Z"', '"2024-03-20T07:00:00.123456Z"'),
    ],
)
def test_each_form_as_it_is_written(times: Times, whole: str, fraction: str) -> None:
    written = [msgspec.json.encode(TIMES[times](us)) for us in (1710918000_000000, 1710918000_123456)]
    assert written == [whole.encode(), fraction.encode()]


@given(st.integers(0, 4_102_444_800_000_000))
def test_no_form_loses_a_microsecond(time_us: int) -> None:
    def back(times: Times) -> Any:
        return json.loads(msgspec.json.encode(TIMES[times](time_us)))

    assert round(back("s") * 1_000_000) == time_us
    assert round(back("ms") * 1_000) == time_us
    assert back("us") == time_us
    moment = datetime.fromisoformat(back("iso")) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (moment.days * 86_400 + moment.seconds) * 1_000_000 + moment.microseconds == time_us


@pytest.mark.parametrize("text", ["", "S", "sec", "ns", "1", "us "])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one of s, ms, us, iso"):
        parse_times(text)
