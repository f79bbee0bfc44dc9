"""Impossible prices."""

from __future__ import annotations

import math
from math import nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mdserver.kinds import KINDS
from mdserver.model import Candle, OrderBook, Tick, Trade
from mdserver.record_check import (
    CONFIRMATIONS,
    EARLIEST_US,
    MAX_AHEAD_US,
    MAX_JUMP,
    CandleCheck,
    OrderBookCheck,
    TickCheck,
    TradeCheck,
    time_fault,
)

NOW = 1_710_918_000_000_000


@pytest.mark.parametrize("price", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e12, 1e300])
def test_impossible_prices(price: float) -> None:
    assert TradeCheck().fault(Trade("A", NOW + 0, price, 1.0)) == "price"
    assert TickCheck().fault(Tick("A", NOW + 0, price, 2.0)) == "price"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, price)) == "price"


@pytest.mark.parametrize("size", [math.nan, math.inf, -0.5])
def test_impossible_sizes(size: float) -> None:
    assert TradeCheck().fault(Trade("A", NOW + 0, 1.0, size)) == "size"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, 2.0, size, 1.0)) == "size"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, 2.0, 1.0, size)) == "size"


def test_crossed_quote() -> None:
    assert TickCheck().fault(Tick("A", NOW + 0, 2.0, 1.0)) == "crossed"
    assert TickCheck().fault(Tick("A", NOW + 0, 2.0, 2.0)) is None


@given(st.floats(1e-8, 1e10), st.floats(1 / MAX_JUMP * 1.01, MAX_JUMP * 0.99))
def test_believable_moves_pass(price: float, move: float) -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW + 0, price, 1.0)) is None
    assert check.fault(Trade("A", NOW + 1, price * move, 1.0)) is None


@pytest.mark.parametrize("scale", [1000.0, 0.001])
def test_a_wrong_scale_is_a_jump_until_the_venue_insists(scale: float) -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW + 0, 1.1, 1.0)) is None
    for n in range(CONFIRMATIONS):
        assert check.fault(Trade("A", NOW + n, 1.1 * scale, 1.0)) == "jump"
    assert check.fault(Trade("A", NOW + 99, 1.1 * scale, 1.0)) is None


def test_prices_without_a_common_level_confirm_nothing() -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW, 1.1, 1.0)) is None
    for n, price in enumerate([900.0, 0.001, 5e6, 77_777.0, 1e9, 3e11] * CONFIRMATIONS):
        assert check.fault(Trade("A", NOW + n, price, 1.0)) == "jump"
    assert check.fault(Trade("A", NOW + 99, 1.1, 1.0)) is None


def test_one_stray_price_does_not_move_the_level() -> None:
    check = TradeCheck()
    for n in range(20):
        assert check.fault(Trade("A", NOW + n, 1.1, 1.0)) is None
        assert check.fault(Trade("A", NOW + n, 1100.0, 1.0)) == "jump"


@pytest.mark.parametrize(
    "record",
    [
        Trade("A", NOW, 1.0, 1.0, "BUY"),
        Trade("A", NOW, 1.0, 1.0, "buy", 17),
        Trade("A", NOW, "1.0", 1.0),
        Trade("A", NOW, 1.0, None),
        Trade("A", NOW, True, 1.0),
        Tick("A", NOW, np.float64(1.0), 2.0),
        Tick("A", NOW, 1.0, None),
        Tick("A", NOW, 1.0, 2.0, "5"),
        Tick("A", NOW, 1.0, 2.0, 5.0, "5"),
    ],
)
def test_fields_of_the_wrong_type(record: Tick | Trade) -> None:
    assert KINDS[type(record)].check().fault(record) == "type"


def test_whole_numbers_and_any_text_pass() -> None:
    assert TickCheck().fault(Tick("A", NOW, 1, 2, 3, 4)) is None
    assert TradeCheck().fault(Trade("A", NOW, 1, 2, "sell", "ü-7")) is None


@pytest.mark.parametrize(
    ("time_us", "fault"),
    [
        (0, "time"),
        (-5, "time"),
        (EARLIEST_US - 1, "time"),
        (NOW + MAX_AHEAD_US + 1, "time"),
        (2**70, "time"),
        (NOW // 1_000, "time_in_ms"),
        (NOW // 1_000_000, "time_in_s"),
        (NOW * 1_000, "time_in_ns"),
        (float(NOW), "type"),
        (True, "type"),
        (EARLIEST_US, None),
        (NOW + 60_000_000, None),
    ],
)
def test_times(time_us: Any, fault: str | None) -> None:
    assert time_fault(time_us, NOW) == fault


def test_a_kind_may_have_older_records() -> None:
    assert time_fault(5, NOW, 1) is None


@pytest.mark.parametrize("trade_id", ["x" * 65, "人" * 22, "a\0b", "\ud83d"])
def test_trade_ids_that_are_too_long_or_cannot_be_stored(trade_id: str) -> None:
    assert TradeCheck().fault(Trade("A", NOW, 1.0, 1.0, "buy", trade_id)) == "trade_id"


def test_the_longest_trade_ids_pass() -> None:
    for trade_id in ("x" * 64, "人" * 21, ""):
        assert TradeCheck().fault(Trade("A", NOW, 1.0, 1.0, "buy", trade_id)) is None


BOOK = OrderBook("A", NOW, ((1.1, 5.0), (1.0, 2)), ((1.2, 4.0), (1.3, 1.0)))
HOUR = NOW // 3_600_000_000 * 3_600_000_000
CANDLE = Candle("A", HOUR, "1h", 1.0, 1.2, 0.9, 1.1, 3.0, 2, False)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"bids": ()}, None),
        ({"asks": ((1.1, 1.0),)}, None),
        ({"asks": ((1.09, 1.0),)}, "crossed"),
        ({"asks": ((1.09, 0.0),), "action": "update"}, None),
        ({"bids": ((1.0, 1.0), (1.1, 1.0))}, "order"),
        ({"bids": [(1.0, 1.0)]}, "type"),
        ({"bids": ((1.0, "1"),)}, "type"),
        ({"bids": ((1.0,),)}, "type"),
        ({"action": "delta"}, "type"),
        ({"bids": ((1.0, -1.0),)}, "size"),
        ({"bids": ((nan, 1.0),)}, "price"),
        ({"bids": tuple((1.0 - n / 1e6, 1.0) for n in range(5_001))}, "size"),
    ],
)
def test_order_books(changes: dict[str, Any], fault: str | None) -> None:
    assert OrderBookCheck().fault(replace(BOOK, **changes)) == fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"interval": "7m"}, "interval"),
        ({"time_us": HOUR + 60_000_000}, "time"),
        ({"low": 1.05}, "range"),
        ({"high": 1.05}, "range"),
        ({"close": "1.1"}, "type"),
        ({"closed": 1}, "type"),
        ({"volume": -1.0}, "size"),
        ({"open": -1.0}, "price"),
    ],
)
def test_candles(changes: dict[str, Any], fault: str | None) -> None:
    assert CandleCheck().fault(replace(CANDLE, **changes)) == fault
