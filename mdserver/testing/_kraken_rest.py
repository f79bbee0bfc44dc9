"""The fake Kraken's public REST API, without I/O. Errors come with HTTP 200, as the venue's do."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from ._kraken_market import FakeMarket, Pair, decimal, qty
from ._kraken_texts import candles
from .http_exchange import HttpAnswer, HttpRequest

__all__ = ["answer", "find"]

_PREFIX = "/0/public/"
_MOST_TRADES = 1000
_MOST_CANDLES = 720
_FEES = [[0, 0.4], [10000, 0.35], [50000, 0.24]]
_FEES_MAKER = [[0, 0.25], [10000, 0.2], [50000, 0.14]]


def answer(markets: Mapping[str, FakeMarket], request: HttpRequest, system: str, now_ns: int) -> HttpAnswer:
    """Answer a request for public data."""
    name = request.path.removeprefix(_PREFIX)
    query = request.query
    moment = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC)
    if name == "Time":
        rfc1123 = f"{moment:%a, %d %b %y %H:%M:%S +0000}"
        return _result({"unixtime": now_ns // 10**9, "rfc1123": rfc1123})
    if name == "SystemStatus":
        return _result({"status": system, "timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"})
    if name == "Assets":
        return _result(_assets(markets))
    if name == "AssetPairs":
        return _asset_pairs(markets, query.get("pair"))
    if name not in ("Trades", "OHLC", "Depth", "Ticker"):
        return _error("EGeneral:Unknown method")
    market = find(markets, query.get("pair", ""))
    if market is None:
        return _error("EQuery:Unknown asset pair")
    if name == "Trades":
        return _trades(market, query)
    if name == "OHLC":
        return _ohlc(market, query, now_ns)
    return _depth(market, query) if name == "Depth" else _ticker(market)


def find(markets: Mapping[str, FakeMarket], name: str) -> FakeMarket | None:
    """Return the market of the pair that has ``name`` among its names."""
    for market in markets.values():
        pair = market.pair
        if name in (pair.symbol, pair.rest_key, pair.altname, pair.wsname):
            return market
    return None


def _asset_pairs(markets: Mapping[str, FakeMarket], names: str | None) -> HttpAnswer:
    chosen = list(markets.values())
    if names is not None:
        named = [find(markets, name) for name in names.split(",")]
        if None in named:
            return _error("EQuery:Unknown asset pair")
        chosen = [market for market in named if market is not None]
    return _result({market.pair.rest_key: _asset_pair(market.pair) for market in chosen})


def _asset_pair(pair: Pair) -> dict[str, object]:
    return {
        "altname": pair.altname,
        "wsname": pair.wsname,
        "aclass_base": "currency",
        "base": pair.rest_base,
        "aclass_quote": "currency",
        "quote": pair.rest_quote,
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": pair.price_digits,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": _FEES,
        "fees_maker": _FEES_MAKER,
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.0001",
        "costmin": "0.5",
        "tick_size": decimal(1, pair.price_digits),
        "status": pair.status,
    }


def _assets(markets: Mapping[str, FakeMarket]) -> dict[str, object]:
    named: dict[str, str] = {}
    for market in markets.values():
        base, quote = market.pair.wsname.split("/")
        named |= {market.pair.rest_base: base, market.pair.rest_quote: quote}
    return {
        key: {
            "aclass": "currency",
            "altname": altname,
            "decimals": 10,
            "display_decimals": 5,
            "status": "enabled",
        }
        for key, altname in named.items()
    }


def _trades(market: FakeMarket, query: Mapping[str, str]) -> HttpAnswer:
    """Answer ``Trades``. ``since`` is in nanoseconds and inclusive, so that a client misses no trade of equal time."""
    try:
        since_ns = int(query.get("since", "0"))
        count = min(int(query.get("count", _MOST_TRADES)), _MOST_TRADES)
    except ValueError:
        return _error("EGeneral:Invalid arguments")
    later = [t for t in market.trades if t.time_ns >= since_ns]
    chosen = later[:count] if "since" in query else later[-count:]
    rows = [
        [
            decimal(t.price, market.pair.price_digits) + "0" * (5 - market.pair.price_digits),
            qty(t.qty),
            round(t.time_ns / 10**9, 7),
            t.side[0],
            t.kind[0],
            "",
            t.trade_id,
        ]
        for t in chosen
    ]
    last = chosen[-1].time_ns if chosen else since_ns
    return _result({market.pair.rest_key: rows, "last": str(last)})


def _ohlc(market: FakeMarket, query: Mapping[str, str], now_ns: int) -> HttpAnswer:
    """Answer ``OHLC``: unlike the stream it fills intervals without trades. The last row is still forming."""
    minutes = int(query.get("interval", "1"))
    step_s, digits = 60 * minutes, market.pair.price_digits
    found = candles(market, minutes)
    now_s = now_ns // 10**9 // step_s * step_s
    first_s = max(min(found, default=now_s), now_s - _MOST_CANDLES * step_s)
    close = market.pair.price
    rows: list[list[object]] = []
    for start_s in range(first_s, now_s + 1, step_s):
        trades = found.get(start_s, [])
        prices = [t.price for t in trades] or [close]
        close = prices[-1]
        shown = [decimal(n, digits) for n in (prices[0], max(prices), min(prices), close)]
        vwap = decimal(sum(prices) // len(prices), digits) if trades else "0.0"
        rows.append([start_s, *shown, vwap, qty(sum(t.qty for t in trades)), len(trades)])
    return _result({market.pair.rest_key: rows, "last": now_s - step_s})


def _depth(market: FakeMarket, query: Mapping[str, str]) -> HttpAnswer:
    bids, asks = (
        [[decimal(price, market.pair.price_digits), qty(size), 0] for price, size in side.items()]
        for side in market.window(int(query.get("count", "100")))
    )
    return _result({market.pair.rest_key: {"asks": asks, "bids": bids}})


def _ticker(market: FakeMarket) -> HttpAnswer:
    digits = market.pair.price_digits
    (bid, bid_qty), (ask, ask_qty) = market.best()
    prices = [decimal(t.price, digits) for t in market.trades]
    volume = qty(sum(t.qty for t in market.trades))
    row = {
        "a": [decimal(ask, digits), "1", qty(ask_qty)],
        "b": [decimal(bid, digits), "1", qty(bid_qty)],
        "c": [prices[-1], qty(market.trades[-1].qty)],
        "v": [volume, volume],
        "p": [prices[-1], prices[-1]],
        "t": [len(prices), len(prices)],
        "l": [min(prices, key=float)] * 2,
        "h": [max(prices, key=float)] * 2,
        "o": prices[0],
    }
    return _result({market.pair.rest_key: row})


def _result(result: object) -> HttpAnswer:
    return HttpAnswer(200, {"error": [], "result": result})


def _error(error: str) -> HttpAnswer:
    return HttpAnswer(200, {"error": [error], "result": None})
