"""The made-up markets behind the fake Binance: prices, books, trades. No I/O.

Prices are integers in units of the instrument's tick size, sizes in units of 10^-8. Every book is sorted again at each
read: that is slow, but it shares no code with the plugins that are tested against it.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TypeAlias

import attrs

__all__ = ["INSTRUMENTS", "FakeMarket", "MarketTrade", "Side", "decimal"]

Side: TypeAlias = dict[int, int]
"""One side of a book: price to size."""

_DIGITS = 8
_LEVELS = 1200
_TOUCHED = 15
_KEPT_TRADES = 20_000
_HISTORY_MS = 2 * 3600 * 1000

INSTRUMENTS: dict[str, tuple[str, str, int, int]] = {
    "BTCUSDT": ("BTC", "USDT", 2, 6_123_450),
    "ETHUSDT": ("ETH", "USDT", 2, 245_678),
    "BNBBTC": ("BNB", "BTC", 6, 9_876),
    "ETHBTC": ("ETH", "BTC", 5, 4_012),
    "DOGEUSDT": ("DOGE", "USDT", 5, 12_345),
    "EURUSDT": ("EUR", "USDT", 4, 10_870),
    "币安人生USDT": ("币安人生", "USDT", 5, 13_370),
}
"""The default instruments of the fake venue: base, quote, digits of the price, initial price."""


@attrs.frozen
class MarketTrade:
    """One execution; executions of one order at one price share their ``aggregate``."""

    number: int
    aggregate: int
    time_ms: int
    price: int
    size: int
    buyer_is_maker: bool


class FakeMarket:
    """One market. ``update`` is the number of its book's newest change; ``changed`` holds the changes not yet sent."""

    def __init__(self, symbol: str, digits: int, price: int, now_ms: int, rng: random.Random) -> None:
        self.symbol = symbol
        self.digits = digits
        self.bids: Side = {}
        self.asks: Side = {}
        self.trades: deque[MarketTrade] = deque(maxlen=_KEPT_TRADES)
        self.next_trade = rng.randrange(10**6, 10**8)
        self.next_aggregate = rng.randrange(10**5, 10**6)
        self.update = rng.randrange(10**9, 10**10)
        self.changed: tuple[Side, Side] = ({}, {})
        self.told = self.update
        self._rng = rng
        for n in range(min(_LEVELS, price // 2)):
            self.bids[price - n] = self._size()
            self.asks[price + 1 + n] = self._size()
        self._make_history(price, now_ms)

    def best(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return price and size of the best bid and the best ask."""
        bid, ask = max(self.bids), min(self.asks)
        return (bid, self.bids[bid]), (ask, self.asks[ask])

    def window(self, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the best levels of both sides, best first."""
        return sorted(self.bids.items(), reverse=True)[:levels], sorted(self.asks.items())[:levels]

    def set_level(self, *, bid: bool, price: int, size: int) -> None:
        """Set the size of one level; 0 removes it."""
        side = self.bids if bid else self.asks
        if size:
            side[price] = size
        else:
            side.pop(price, None)
        self.changed[0 if bid else 1][price] = size
        self.update += 1

    def take_changes(self) -> tuple[int, int, Side, Side]:
        """Return the numbers of the first and the last change since the last call, and the levels."""
        first, last, (bids, asks) = self.told + 1, self.update, self.changed
        self.told, self.changed = self.update, ({}, {})
        return first, last, bids, asks

    def step(self, now_ms: int) -> list[MarketTrade]:
        """Change a few levels, and in every third step execute an order against the book; return its executions."""
        for _ in range(self._rng.randint(1, 4)):
            self._touch()
        return self._take(now_ms) if self._rng.random() < 1 / 3 else []

    def execute(
        self, pieces: list[tuple[int, int]], now_ms: int, *, buyer_is_maker: bool
    ) -> list[MarketTrade]:
        """Record the executions of one order: price and size of each."""
        executions: list[MarketTrade] = []
        for price, size in pieces:
            if executions and executions[-1].price != price:
                self.next_aggregate += 1
            trade = MarketTrade(self.next_trade, self.next_aggregate, now_ms, price, size, buyer_is_maker)
            executions.append(trade)
            self.next_trade += 1
        self.trades.extend(executions)
        self.next_aggregate += 1
        return executions

    def _touch(self) -> None:
        rng = self._rng
        bid = rng.random() < 0.5
        side = self.bids if bid else self.asks
        (best_bid, _), (best_ask, _) = self.best()
        away = rng.randrange(-1, _TOUCHED)
        price = best_bid - away if bid else best_ask + away
        if price < 1 or (price >= best_ask if bid else price <= best_bid):
            return
        gone = price in side and len(side) > _TOUCHED and rng.random() < 0.4
        self.set_level(bid=bid, price=price, size=0 if gone else self._size())

    def _take(self, now_ms: int) -> list[MarketTrade]:
        """Execute an order against the best level, and possibly the next ones."""
        buying = self._rng.random() < 0.5
        side = self.asks if buying else self.bids
        pieces = []
        for _ in range(self._rng.randint(1, 3)):
            if len(side) <= _TOUCHED:
                break
            price = min(side) if buying else max(side)
            pieces.append((price, side[price]))
            self.set_level(bid=not buying, price=price, size=0)
            last = max(side) + 1 if buying else min(side) - 1
            if last > 0:
                self.set_level(bid=not buying, price=last, size=self._size())
        return self.execute(pieces, now_ms, buyer_is_maker=not buying) if pieces else []

    def _size(self) -> int:
        return self._rng.choice((100_000, self._rng.randrange(1, 10**8), self._rng.randrange(1, 20 * 10**8)))

    def _make_history(self, price: int, now_ms: int) -> None:
        """Make up trades of the last two hours: some with equal times, and some minutes without any."""
        rng, time_ms = self._rng, now_ms - _HISTORY_MS
        while time_ms < now_ms:
            pieces = [
                (max(1, price + rng.randint(-3, 3)), self._size()) for _ in range(rng.choice((1, 1, 2, 5)))
            ]
            self.execute(pieces, time_ms, buyer_is_maker=rng.random() < 0.5)
            time_ms += int(rng.expovariate(1 / 8_000)) + 1


def decimal(value: int, digits: int) -> str:
    """Return a number as Binance writes it: eight decimals whatever the tick size."""
    return f"{value // 10**digits}.{value % 10**digits:0{digits}}" + "0" * (_DIGITS - digits)
