"""Impossible prices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.kinds import KINDS
from mdserver.model import Tick, Trade
from mdserver.record_check import CONFIRMATIONS, MAX_AHEAD_US, MAX_JUMP, TickCheck, TradeCheck

NOW = 1_710_918_000_000_000


@pytest.mark.parametrize("price", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e12, 1e300])
def test_impossible_prices(price: float) -> None:
    assert TradeCheck().fault(Trade("A", NOW + 0, price, 1.0), NOW) == "price"
    assert TickCheck().fault(Tick("A", NOW + 0, price, 2.0), NOW) == "price"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, price), NOW) == "price"


@pytest.mark.parametrize("size", [math.nan, math.inf, -0.5])
def test_impossible_sizes(size: float) -> None:
    assert TradeCheck().fault(Trade("A", NOW + 0, 1.0, size), NOW) == "size"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, 2.0, size, 1.0), NOW) == "size"
    assert TickCheck().fault(Tick("A", NOW + 0, 1.0, 2.0, 1.0, size), NOW) == "size"


def test_crossed_quote() -> None:
    assert TickCheck().fault(Tick("A", NOW + 0, 2.0, 1.0), NOW) == "crossed"
    assert TickCheck().fault(Tick("A", NOW + 0, 2.0, 2.0), NOW) is None


@given(st.floats(1e-8, 1e10), st.floats(1 / MAX_JUMP * 1.01, MAX_JUMP * 0.99))
def test_believable_moves_pass(price: float, move: float) -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW + 0, price, 1.0), NOW) is None
    assert check.fault(Trade("A", NOW + 1, price * move, 1.0), NOW) is None


@pytest.mark.parametrize("scale", [1000.0, 0.001])
def test_a_wrong_scale_is_a_jump_until_the_venue_insists(scale: float) -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW + 0, 1.1, 1.0), NOW) is None
    for n in range(CONFIRMATIONS):
        assert check.fault(Trade("A", NOW + n, 1.1 * scale, 1.0), NOW) == "jump"
    assert check.fault(Trade("A", NOW + 99, 1.1 * scale, 1.0), NOW) is None


def test_prices_without_a_common_level_confirm_nothing() -> None:
    check = TradeCheck()
    assert check.fault(Trade("A", NOW, 1.1, 1.0), NOW) is None
    for n, price in enumerate([900.0, 0.001, 5e6, 77_777.0, 1e9, 3e11] * CONFIRMATIONS):
        assert check.fault(Trade("A", NOW + n, price, 1.0), NOW) == "jump"
    assert check.fault(Trade("A", NOW + 99, 1.1, 1.0), NOW) is None


def test_one_stray_price_does_not_move_the_level() -> None:
    check = TradeCheck()
    for n in range(20):
        assert check.fault(Trade("A", NOW + n, 1.1, 1.0), NOW) is None
        assert check.fault(Trade("A", NOW + n, 1100.0, 1.0), NOW) == "jump"


@pytest.mark.parametrize(
    "record",
    [
        Trade("A", NOW, 1.0, 1.0, "BUY"),
        Trade("A", NOW, 1.0, 1.0, "buy", 17),
        Trade("A", NOW, 1.0, 1.0, "buy", "\ud83d"),
        Trade("A", float(NOW), 1.0, 1.0),
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
    assert KINDS[type(record)].check().fault(record, NOW) == "type"


def test_whole_numbers_and_any_text_pass() -> None:
    assert TickCheck().fault(Tick("A", NOW, 1, 2, 3, 4), NOW) is None
    assert TradeCheck().fault(Trade("A", NOW, 1, 2, "sell", "ü-7"), NOW) is None


@pytest.mark.parametrize("time_us", [0, -5, NOW + MAX_AHEAD_US + 1, 2**70])
def test_impossible_times(time_us: int) -> None:
    assert TradeCheck().fault(Trade("A", time_us, 1.0, 1.0), NOW) == "time"


def test_old_and_slightly_fast_clocks_pass() -> None:
    assert TradeCheck().fault(Trade("A", 1, 1.0, 1.0), NOW) is None
    assert TradeCheck().fault(Trade("A", NOW + 60_000_000, 1.0, 1.0), NOW) is None
