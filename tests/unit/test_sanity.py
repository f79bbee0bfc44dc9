"""Impossible prices."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import Tick, Trade
from mdserver.sanity import CONFIRMATIONS, MAX_JUMP, PriceCheck


@pytest.mark.parametrize("price", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e12, 1e300])
def test_impossible_prices(price: float) -> None:
    assert PriceCheck().fault(Trade("A", 0, price, 1.0)) == "price"
    assert PriceCheck().fault(Tick("A", 0, price, 2.0)) == "price"
    assert PriceCheck().fault(Tick("A", 0, 1.0, price)) == "price"


@pytest.mark.parametrize("size", [math.nan, math.inf, -0.5])
def test_impossible_sizes(size: float) -> None:
    assert PriceCheck().fault(Trade("A", 0, 1.0, size)) == "size"
    assert PriceCheck().fault(Tick("A", 0, 1.0, 2.0, size, 1.0)) == "size"
    assert PriceCheck().fault(Tick("A", 0, 1.0, 2.0, 1.0, size)) == "size"


def test_crossed_quote() -> None:
    assert PriceCheck().fault(Tick("A", 0, 2.0, 1.0)) == "crossed"
    assert PriceCheck().fault(Tick("A", 0, 2.0, 2.0)) is None


@given(st.floats(1e-8, 1e10), st.floats(1 / MAX_JUMP * 1.01, MAX_JUMP * 0.99))
def test_believable_moves_pass(price: float, move: float) -> None:
    check = PriceCheck()
    assert check.fault(Trade("A", 0, price, 1.0)) is None
    assert check.fault(Trade("A", 1, price * move, 1.0)) is None


@pytest.mark.parametrize("scale", [1000.0, 0.001])
def test_a_wrong_scale_is_a_jump_until_the_venue_insists(scale: float) -> None:
    check = PriceCheck()
    assert check.fault(Trade("A", 0, 1.1, 1.0)) is None
    for n in range(CONFIRMATIONS):
        assert check.fault(Trade("A", n, 1.1 * scale, 1.0)) == "jump"
    assert check.fault(Trade("A", 99, 1.1 * scale, 1.0)) is None


def test_one_stray_price_does_not_move_the_level() -> None:
    check = PriceCheck()
    for n in range(20):
        assert check.fault(Trade("A", n, 1.1, 1.0)) is None
        assert check.fault(Trade("A", n, 1100.0, 1.0)) == "jump"
