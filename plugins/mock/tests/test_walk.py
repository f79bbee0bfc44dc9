"""The walks: the same for the same seed, and plausible whatever the symbol."""

from __future__ import annotations

from decimal import Decimal
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver_mock.walk import BLOCK, Step, profile, walk

PINNED_EURUSD = [(1.08498, 1.08502), (1.08494, 1.08501), (1.08495, 1.085), (1.08495, 1.08499)]
PINNED_BTCUSDT = (67002.99, 67003.04, 0.896, 0.657, 67002.99, 0.291, "sell")

symbols = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=2, max_size=32)
seeds = st.integers(0, 2**63 - 1)
step_sizes = st.floats(0.001, 100)


def steps(symbol: str, count: int, *, seed: int = 1, step_bps: float = 0.2) -> list[Step]:
    return list(islice(walk(symbol, seed=seed, step_bps=step_bps), count))


def test_these_prices_come_out_on_every_machine() -> None:
    # pinned: whoever changes the walk changes what users of a seed have seen
    assert [step[:2] for step in steps("EURUSD", 4)] == PINNED_EURUSD
    assert steps("BTCUSDT", BLOCK + 1, seed=7)[-1] == PINNED_BTCUSDT


def test_seed_and_symbol_make_the_walk() -> None:
    assert steps("EURUSD", 1_000) == steps("EURUSD", 1_000)
    assert steps("EURUSD", 100) != steps("EURUSD", 100, seed=2)
    assert steps("AAA", 100) != steps("AAB", 100)


@given(symbols, seeds, step_sizes)
def test_quotes_are_possible(symbol: str, seed: int, step_bps: float) -> None:
    start, decimals, spread, _ = profile(symbol, seed)
    for bid, ask, bid_size, ask_size, price, size, side in steps(symbol, 300, seed=seed, step_bps=step_bps):
        assert 0 < bid < ask <= 2 * start / 10**decimals
        assert 1 <= round((ask - bid) * 10**decimals) <= spread
        assert bid_size > 0
        assert ask_size > 0
        assert size > 0
        assert price == (ask if side == "buy" else bid)


@given(symbols, seeds)
def test_prices_print_short(symbol: str, seed: int) -> None:
    decimals = profile(symbol, seed).decimals
    for step in steps(symbol, 20, seed=seed):
        exponent = Decimal(repr(step[0])).as_tuple().exponent
        assert isinstance(exponent, int)
        assert -exponent <= decimals


@pytest.mark.parametrize(
    ("symbol", "decimals", "low", "high"),
    [
        ("EURUSD", 5, 1, 1.2),
        ("USDJPY", 3, 100, 200),
        ("AUDNOK", 5, 0.4, 1.6),
        ("BTCUSDT", 2, 6e4, 7e4),
        ("X1", 2, 9, 510),
    ],
)
def test_first_prices_are_plausible(symbol: str, decimals: int, low: float, high: float) -> None:
    found = profile(symbol, 1)
    assert found.decimals == decimals
    assert low < found.start / 10**decimals < high


def test_a_long_walk_stays_in_its_range() -> None:
    start, decimals, _, _ = profile("EURUSD", 3)
    bids = [step[0] for step in steps("EURUSD", 50_000, seed=3, step_bps=100)]
    assert min(bids) > 0.2 * start / 10**decimals
    assert max(bids) < 1.8 * start / 10**decimals
    assert max(bids) - min(bids) > 0.5 * start / 10**decimals  # it does move
