"""Random walks that are the same for the same seed, on every machine and with every numpy.

All arithmetic up to the last division is on integers (points: units of the last decimal), from the raw bits
of PCG64, whose sequence numpy promises to keep. Dividing by a power of ten at the end gives the float nearest
to the decimal number, so prices print short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mdserver.model import Side

__all__ = ["Profile", "Step", "profile", "walk"]

BLOCK = 128
"""Steps drawn at once: numpy's cost per call is then about 0.3 µs a step, and a symbol holds some 25 kB."""

_Ints: TypeAlias = npt.NDArray[np.int64]

# fmt: off
_FIAT = frozenset((
    "AUD", "CAD", "CHF", "CNH", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF",
    "JPY", "MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "TRY", "USD", "ZAR",
))
# fmt: on
_METALS = frozenset(("XAU", "XAG", "XPT", "XPD"))
_STABLE = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD")

_KNOWN_PRICES = {
    "EURUSD": 1.085, "GBPUSD": 1.268, "AUDUSD": 0.657, "NZDUSD": 0.608, "USDCAD": 1.357, "USDCHF": 0.885,
    "USDJPY": 151.2, "EURJPY": 164.1, "GBPJPY": 191.7, "EURGBP": 0.856, "EURCHF": 0.96,
    "XAUUSD": 2340.0, "XAGUSD": 27.6,
    "BTCUSDT": 67_000.0, "ETHUSDT": 3_450.0, "SOLUSDT": 152.0, "BNBUSDT": 585.0, "XRPUSDT": 0.52,
    "BTCUSD": 67_000.0, "ETHUSD": 3_450.0, "BTCEUR": 61_750.0, "ETHEUR": 3_180.0,
}  # fmt: skip


class Profile(NamedTuple):
    """How a symbol's numbers look.

    ``start`` is the first price in points, one point being 10^-``decimals``. A spread is 1 to ``spread``
    points. A size is 1 to 1000 lots, of ``lot[0] / lot[1]`` units each (two integers: their quotient is exact
    or the nearest float).
    """

    start: int
    decimals: int
    spread: int
    lot: tuple[int, int]


Step: TypeAlias = tuple[float, float, float, float, float, float, Side]
"""One step of a walk: a quote's bid, ask, bid size, ask size; price, size, side of a trade at its bid or ask.

Sizes are in units of the base. A plain tuple, because building a named one would double the cost of a record.
"""


def _digest(seed: int, symbol: str) -> int:
    """Return 256 bits that depend on nothing but the arguments (``hash()`` differs from run to run)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{symbol}".encode()).digest())


def profile(symbol: str, seed: int) -> Profile:
    """Choose decimals and a first price: plausible for a known symbol, else drawn from seed and symbol."""
    base, quote = symbol[:3], symbol[3:]
    draw = _digest(seed, symbol) % 10_000 / 10_000
    if base in _FIAT and quote in _FIAT:
        decimals, price = (3, 20 + 180 * draw) if quote == "JPY" else (5, 0.5 + draw)
        spread, lot = 12, (10_000, 1)
    elif base in _METALS and quote in _FIAT:
        decimals, price, spread, lot = 2, 20 + 2_000 * draw, 40, (1, 1)
    elif symbol in _KNOWN_PRICES or symbol.endswith(_STABLE):
        decimals, price, spread, lot = 2, 1 + 500 * draw, 8, (1, 1000)
    else:
        decimals, price, spread, lot = 2, 10 + 490 * draw, 5, (100, 1)
    price = _KNOWN_PRICES.get(symbol, price)
    if price < 1 and decimals == 2:
        decimals, lot = 4, (1, 1)  # two decimals of a price below one would hardly move
    return Profile(round(price * 10**decimals), decimals, spread, lot)


def _scaled(bits: _Ints, choices: int) -> _Ints:
    """Map 16 random bits evenly onto 0 … ``choices`` - 1."""
    return bits * choices >> 16


def _fold(position: _Ints, low: int, high: int) -> _Ints:
    """Reflect an unbounded walk between ``low`` and ``high``."""
    width = high - low
    phase: _Ints = (position - low) % (2 * width)
    return low + np.minimum(phase, 2 * width - phase)


def walk(symbol: str, *, seed: int, step_bps: float) -> Iterator[Step]:
    """Yield the symbol's steps for ever. Prices are positive and stay within ± 3/4 of the first one."""
    start, decimals, spread, lot = profile(symbol, seed)
    unit, (lot_units, lot_parts) = 10**decimals, lot
    most = max(1, round(start * step_bps / 10_000))
    # the lower bound leaves room for the spread, so that a bid is positive whatever the profile
    low, high = max(spread + 1, start // 4), max(spread + 2, start) + start * 3 // 4
    bits = np.random.PCG64(_digest(seed, symbol))
    position = start
    while True:
        raw = bits.random_raw(2 * BLOCK).reshape(2, BLOCK)
        first, second, third, fourth = (
            (raw[0] >> shift & 0xFFFF).astype(np.int64) for shift in (0, 16, 32, 48)
        )
        fifth, sixth = ((raw[1] >> shift & 0xFFFF).astype(np.int64) for shift in (0, 16))
        path = position + np.cumsum(_scaled(first, 2 * most + 1) - most)
        position = int(path[-1])
        ask = _fold(path, low, high)
        bid = ask - 1 - _scaled(second, spread)
        buys = sixth >= 0x8000
        bid_size, ask_size, size = (
            (1 + _scaled(some, 1000)) * lot_units / lot_parts for some in (third, fourth, fifth)
        )
        sides: list[Side] = ["buy" if buy else "sell" for buy in buys.tolist()]
        yield from zip(
            (bid / unit).tolist(),
            (ask / unit).tolist(),
            bid_size.tolist(),
            ask_size.tolist(),
            (np.where(buys, ask, bid) / unit).tolist(),
            size.tolist(),
            sides,
            strict=True,
        )
