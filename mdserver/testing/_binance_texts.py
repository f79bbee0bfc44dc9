"""The fake Binance's payloads, built from its markets. Times are milliseconds. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from ._binance_market import FakeMarket, MarketTrade, Side, decimal

__all__ = [
    "INTERVALS",
    "agg_trade",
    "aggregates",
    "book_ticker",
    "candles",
    "depth_update",
    "kline",
    "levels",
    "mini_ticker",
    "partial_depth",
    "size",
    "ticker",
    "trade",
]

_MINUTE_MS = 60_000
INTERVALS = {
    "1s": 1_000,
    "1m": _MINUTE_MS,
    "3m": 3 * _MINUTE_MS,
    "5m": 5 * _MINUTE_MS,
    "15m": 15 * _MINUTE_MS,
    "30m": 30 * _MINUTE_MS,
    "1h": 60 * _MINUTE_MS,
    "2h": 120 * _MINUTE_MS,
    "4h": 240 * _MINUTE_MS,
    "1d": 1440 * _MINUTE_MS,
}
"""Intervals of candles that are made up, in milliseconds."""


def size(value: int) -> str:
    """Return a size as the venue writes it."""
    return decimal(value, 8)


def levels(market: FakeMarket, side: Iterable[tuple[int, int]]) -> list[list[str]]:
    """Return levels as the venue writes them."""
    return [[decimal(price, market.digits), size(amount)] for price, amount in side]


def book_ticker(market: FakeMarket) -> dict[str, object]:
    """Return the payload of ``@bookTicker``, which has no time."""
    (bid, bid_size), (ask, ask_size) = market.best()
    return {
        "u": market.update,
        "s": market.symbol,
        "b": decimal(bid, market.digits),
        "B": size(bid_size),
        "a": decimal(ask, market.digits),
        "A": size(ask_size),
    }


def trade(market: FakeMarket, one: MarketTrade, now_ms: int) -> dict[str, object]:
    """Return the payload of ``@trade``."""
    return {
        "e": "trade",
        "E": now_ms,
        "s": market.symbol,
        "t": one.number,
        "p": decimal(one.price, market.digits),
        "q": size(one.size),
        "T": one.time_ms,
        "m": one.buyer_is_maker,
        "M": True,
    }


def aggregates(trades: Iterable[MarketTrade]) -> list[list[MarketTrade]]:
    """Return the executions of each aggregate trade."""
    return [list(group) for _, group in groupby(trades, key=lambda one: one.aggregate)]


def agg_trade(market: FakeMarket, group: Sequence[MarketTrade], now_ms: int) -> dict[str, object]:
    """Return the payload of ``@aggTrade``."""
    return {
        "e": "aggTrade",
        "E": now_ms,
        "s": market.symbol,
        "a": group[0].aggregate,
        "p": decimal(group[0].price, market.digits),
        "q": size(sum(one.size for one in group)),
        "f": group[0].number,
        "l": group[-1].number,
        "T": group[0].time_ms,
        "m": group[0].buyer_is_maker,
        "M": True,
    }


def partial_depth(market: FakeMarket, count: int) -> dict[str, object]:
    """Return the payload of ``@depth5``, ``@depth10`` and ``@depth20``, which has neither time nor symbol."""
    bids, asks = market.window(count)
    return {"lastUpdateId": market.update, "bids": levels(market, bids), "asks": levels(market, asks)}


def depth_update(market: FakeMarket, changes: tuple[int, int, Side, Side], now_ms: int) -> dict[str, object]:
    """Return the payload of ``@depth``."""
    first, last, bids, asks = changes
    return {
        "e": "depthUpdate",
        "E": now_ms,
        "s": market.symbol,
        "U": first,
        "u": last,
        "b": levels(market, sorted(bids.items(), reverse=True)),
        "a": levels(market, sorted(asks.items())),
    }


def candles(market: FakeMarket, interval_ms: int) -> dict[int, list[MarketTrade]]:
    """Return the trades of each interval with trades, by its open time."""
    found: dict[int, list[MarketTrade]] = {}
    for one in market.trades:
        found.setdefault(one.time_ms // interval_ms * interval_ms, []).append(one)
    return found


def kline(
    market: FakeMarket,
    interval: str,
    open_ms: int,
    trades: Sequence[MarketTrade],
    now_ms: int,
    *,
    closed: bool,
) -> dict[str, object]:
    """Return the payload of ``@kline_1m`` and its like."""
    prices = [one.price for one in trades]
    volume = sum(one.size for one in trades)
    bought = sum(one.size for one in trades if not one.buyer_is_maker)
    shown = [decimal(n, market.digits) for n in (prices[0], prices[-1], max(prices), min(prices))]
    row = {
        "t": open_ms,
        "T": open_ms + INTERVALS[interval] - 1,
        "s": market.symbol,
        "i": interval,
        "f": trades[0].number,
        "L": trades[-1].number,
        **dict(zip("ochl", shown, strict=True)),
        "v": size(volume),
        "n": len(trades),
        "x": closed,
        "q": size(volume),
        "V": size(bought),
        "Q": size(bought),
        "B": "0",
    }
    return {"e": "kline", "E": now_ms, "s": market.symbol, "k": row}


def ticker(market: FakeMarket, now_ms: int) -> dict[str, object]:
    """Return the payload of ``@ticker``; all known trades count as trades of the last 24 hours."""
    trades = list(market.trades)
    prices = [one.price for one in trades]
    (bid, bid_size), (ask, ask_size) = market.best()
    volume = size(sum(one.size for one in trades))

    def shown(price: int) -> str:
        return decimal(price, market.digits)

    change = prices[-1] - prices[0]
    return {
        "e": "24hrTicker",
        "E": now_ms,
        "s": market.symbol,
        "p": ("-" if change < 0 else "") + shown(abs(change)),
        "P": f"{100 * change / prices[0]:.3f}",
        "w": shown(sum(prices) // len(prices)),
        "x": shown(prices[0]),
        "c": shown(prices[-1]),
        "Q": size(trades[-1].size),
        "b": shown(bid),
        "B": size(bid_size),
        "a": shown(ask),
        "A": size(ask_size),
        "o": shown(prices[0]),
        "h": shown(max(prices)),
        "l": shown(min(prices)),
        "v": volume,
        "q": volume,
        "O": trades[0].time_ms,
        "C": now_ms,
        "F": trades[0].number,
        "L": trades[-1].number,
        "n": len(trades),
    }


def mini_ticker(market: FakeMarket, now_ms: int) -> dict[str, object]:
    """Return the payload of ``@miniTicker``."""
    full = ticker(market, now_ms)
    return {name: full[name] for name in "Escohlvq"} | {"e": "24hrMiniTicker"}
