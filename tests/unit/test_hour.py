"""Which hours of ticks cannot be true: the rules of live records, for imported ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdserver.model import TickColumns
from mdserver.record_check import EARLIEST_US
from mdserver.store.history.hour import hour_fault

HOUR_US = 3_600_000_000
START = 475_255 * HOUR_US
"""A whole hour of 2024."""
NOW = START + 10 * HOUR_US


def ticks(start: int = START, **changes: Any) -> TickColumns:
    columns: dict[str, Any] = {
        "time_us": np.array([start, start + 1], np.int64),
        "bid": np.array([1.1, 1.2]),
        "ask": np.array([1.2, 1.2]),
        "bid_size": np.array([1.0, np.nan]),
        "ask_size": np.array([np.nan, 0.0]),
    }
    return TickColumns(**(columns | changes))


def test_what_can_be_true() -> None:
    assert hour_fault(ticks(), START, NOW) is None


def test_a_quote_that_is_crossed_fails_its_hour_whatever_plugin_decoded_it() -> None:
    fault = hour_fault(ticks(ask=np.array([1.2, 1.19])), START, NOW)
    assert fault == "the ask 1.19 is below the bid 1.2 at tick 1"


@pytest.mark.parametrize(
    "start", [EARLIEST_US - HOUR_US, NOW + 25 * HOUR_US, START // 1_000 // HOUR_US * HOUR_US]
)
def test_hours_that_no_record_can_be_of(start: int) -> None:
    assert "no record can have the time" in str(hour_fault(ticks(start), start, NOW))
