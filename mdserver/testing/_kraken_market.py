"""The made-up market behind the fake Kraken: pairs, books, trades. No I/O.

Prices and sizes are integers in the smallest unit. Every book is sorted again at each read: that is slow, but it shares
no code with the plugins that are tested against it.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from typing import Literal, TypeAlias

import attrs

__all__ = ["PAIRS", "FakeMarket", "FakeTrade", "Pair", "Window", "checksum", "decimal", "qty"]

Window: TypeAlias = tuple[dict[int, int], dict[int, int]]
"""The best levels of both sides, price to size, best first."""

_OLD_NAMES = {"BTC": "XBT", "DOGE": "XDG"}
_QTY_DIGITS = 8
_HISTORY_S = 2 * 3600
_KEPT_TRADES = 5000
_TOUCHED_LEVELS = 15


@attrs.frozen
class Pair:
    """A pair with all its names. ``price`` is its market's initial price, in units of the last digit."""

    symbol: str
    rest_key: str
    rest_base: str
    rest_quote: str
    price_digits: int
    price: int
    status: str = "online"

    @property
    def base(self) -> str:
        """The base asset as v2 names it."""
        return self.symbol.split("/")[0]

    @property
    def quote(self) -> str:
        """The quote asset."""
        return self.symbol.split("/")[1]

    @property
    def wsname(self) -> str:
        """The name in the v1 stream; v2 refuses it."""
        return f"{_OLD_NAMES.get(self.base, self.base)}/{self.quote}"

    @property
    def altname(self) -> str:
        """The short name in the REST API."""
        return self.wsname.replace("/", "")


PAIRS = (
    Pair("BTC/USD", "XXBTZUSD", "XXBT", "ZUSD", 1, 612_345),
    Pair("ETH/USD", "XETHZUSD", "XETH", "ZUSD", 2, 245_678),
    Pair("BTC/EUR", "XXBTZEUR", "XXBT", "ZEUR", 1, 534_321),
    Pair("DOGE/USD", "XDGUSD", "XXDG", "ZUSD", 7, 1_234_567),
    Pair("EUR/USD", "ZEURZUSD", "ZEUR", "ZUSD", 5, 108_703),
    Pair("RLUSD/USD", "RLUSDUSD", "RLUSD", "ZUSD", 4, 9_998),
    Pair("MINA/GBP", "MINAGBP", "MINA", "ZGBP", 4, 286),
)
"""The default pairs of the fake venue, among them old names, a stable coin that ends in USD, and a thin book."""


@attrs.frozen
class FakeTrade:
    """One execution. ``side`` is the taker's."""

    trade_id: int
    time_ns: int
    price: int
    qty: int
    side: Literal["buy", "sell"]
    kind: Literal["limit", "market"]


class FakeMarket:
    """The market of one pair; :meth:`step` produces its next event."""

    def __init__(self, pair: Pair, now_ns: int, rng: random.Random) -> None:
        self.pair = pair
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.trades: deque[FakeTrade] = deque(maxlen=_KEPT_TRADES)
        self.next_trade_id = rng.randrange(10**6, 10**8)
        self._rng = rng
        for n in range(min(1200, pair.price // 2)):
            self.bids[pair.price - n] = self._qty()
            self.asks[pair.price + 1 + n] = self._qty()
        self._make_history(now_ns)

    def window(self, depth: int) -> Window:
        """Return the current best levels."""
        return (
            {price: self.bids[price] for price in sorted(self.bids, reverse=True)[:depth]},
            {price: self.asks[price] for price in sorted(self.asks)[:depth]},
        )

    def best(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return price and size of the best bid and the best ask."""
        bid, ask = max(self.bids), min(self.asks)
        return (bid, self.bids[bid]), (ask, self.asks[ask])

    def step(self, now_ns: int) -> list[FakeTrade]:
        """Change a few levels, and in every third step execute an order against the book; return its executions."""
        for _ in range(self._rng.randint(1, 4)):
            self._touch_level()
        if self._rng.random() < 1 / 3:
            return self._take(now_ns)
        return []

    def execute(self, price: int, qty: int, side: Literal["buy", "sell"], now_ns: int) -> FakeTrade:
        """Record an execution and return it."""
        trade = FakeTrade(self.next_trade_id, now_ns, price, qty, side, self._rng.choice(("limit", "market")))
        self.next_trade_id += 1
        self.trades.append(trade)
        return trade

    def _touch_level(self) -> None:
        rng = self._rng
        buying = rng.random() < 0.5
        side = self.bids if buying else self.asks
        best = max(side) if buying else min(side)
        (bid, _), (ask, _) = self.best()
        away = rng.randrange(-1, _TOUCHED_LEVELS)
        price = best - away if buying else best + away
        if price < 1 or (price >= ask if buying else price <= bid):
            return
        if price in side and len(side) > _TOUCHED_LEVELS and rng.random() < 0.4:
            del side[price]
            self._replenish(side, buying=buying)
        else:
            side[price] = self._qty()

    def _take(self, now_ns: int) -> list[FakeTrade]:
        """Execute an order against the best level, and possibly the next ones; all executions have the same time."""
        buying = self._rng.random() < 0.5
        side = self.asks if buying else self.bids
        executions = []
        for _ in range(self._rng.randint(1, 3)):
            if len(side) <= _TOUCHED_LEVELS:
                break
            price = min(side) if buying else max(side)
            executions.append(self.execute(price, side.pop(price), "buy" if buying else "sell", now_ns))
            self._replenish(side, buying=not buying)
        return executions

    def _replenish(self, side: dict[int, int], *, buying: bool) -> None:
        price = min(side) - 1 if buying else max(side) + 1
        if price > 0:
            side[price] = self._qty()

    def _qty(self) -> int:
        return self._rng.choice((5100, self._rng.randrange(1, 10**6), self._rng.randrange(1, 20 * 10**8)))

    def _make_history(self, now_ns: int) -> None:
        """Make up trades of the last two hours: some with equal times, and some minutes without any."""
        time_ns = now_ns - _HISTORY_S * 10**9
        while time_ns < now_ns:
            for _ in range(self._rng.choice((1, 1, 1, 2, 5))):
                price = self.pair.price + self._rng.randint(-3, 3)
                self.execute(price, self._qty(), self._rng.choice(("buy", "sell")), time_ns)
            time_ns += int(self._rng.expovariate(1 / 10) * 10**9) + 1


def decimal(value: int, digits: int) -> str:
    """Return a number as Kraken writes it: all its digits, never an exponent."""
    return f"{value // 10**digits}.{value % 10**digits:0{digits}}"


def qty(value: int) -> str:
    """Return a size as Kraken writes it."""
    return decimal(value, _QTY_DIGITS)


def checksum(pair: Pair, window: Window) -> int:
    """Return the CRC32 over the ten best asks, then the ten best bids: digits of price and size."""
    bids, asks = window
    text = ""
    for side in (asks, bids):
        for price, size in list(side.items())[:10]:
            for number in (decimal(price, pair.price_digits), qty(size)):
                text += number.replace(".", "").lstrip("0")
    return zlib.crc32(text.encode())
