"""The fake Binance's public REST API, without I/O: the answer to a request, and its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import _binance_texts as texts
from ._binance_market import FakeMarket, MarketTrade, decimal
from .http_exchange import HttpAnswer

__all__ = ["answer", "weight"]

_PREFIX = "/api/v3/"
_MOST_ROWS = 1000
_MOST_LEVELS = 5000
_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
_WEIGHTS = {
    "exchangeInfo": 20,
    "aggTrades": 4,
    "trades": 25,
    "historicalTrades": 25,
    "klines": 2,
    "uiKlines": 2,
    "ticker/bookTicker": 4,
    "ticker/price": 4,
    "ticker/24hr": 80,
    "avgPrice": 2,
}


class _Fault(Exception):
    """A refused request, with the venue's error code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Row(NamedTuple):
    """An instrument: status, base, quote, digits of its price."""

    status: str
    base: str
    quote: str
    digits: int


def weight(path: str, query: Mapping[str, str]) -> int:
    """Return the weight of a request."""
    name = path.removeprefix(_PREFIX)
    if name == "depth":
        limit = query.get("limit", "100")
        asked = int(limit) if limit.isdecimal() else 0
        return next((heavy for most, heavy in _DEPTH_WEIGHTS if asked <= most), _DEPTH_WEIGHTS[-1][1])
    return _WEIGHTS.get(name, 1)


def answer(
    path: str,
    query: Mapping[str, str],
    rows: Mapping[str, Row],
    markets: Mapping[str, FakeMarket],
    limits: Mapping[str, int],
    now_ms: int,
) -> HttpAnswer:
    """Answer a request for market data. ``limits``: weight and requests a minute, for exchangeInfo."""
    name = path.removeprefix(_PREFIX)
    try:
        if name == "ping":
            return HttpAnswer(200, {})
        if name == "time":
            return HttpAnswer(200, {"serverTime": now_ms})
        if name == "exchangeInfo":
            return HttpAnswer(200, _exchange_info(rows, query, limits, now_ms))
        if name.startswith("ticker/"):
            return HttpAnswer(200, _tickers(name.removeprefix("ticker/"), query, markets, now_ms))
        if name not in ("depth", "trades", "historicalTrades", "aggTrades", "klines", "uiKlines", "avgPrice"):
            return HttpAnswer(404, "not found")
        market = _market(markets, query)
        return HttpAnswer(200, _of_market(name, market, query, now_ms))
    except _Fault as fault:
        return HttpAnswer(400, {"code": fault.code, "msg": str(fault)})


def _market(markets: Mapping[str, FakeMarket], query: Mapping[str, str]) -> FakeMarket:
    if "symbol" not in query:
        raise _Fault(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    market = markets.get(query["symbol"])
    if market is None:
        raise _Fault(-1121, "Invalid symbol.")
    return market


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise _Fault(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        )
    return int(text)


def _of_market(name: str, market: FakeMarket, query: Mapping[str, str], now_ms: int) -> object:
    if name == "depth":
        return texts.partial_depth(market, min(_number(query, "limit", 100), _MOST_LEVELS))
    if name == "avgPrice":
        newest = market.trades[-1]
        return {"mins": 5, "price": decimal(newest.price, market.digits), "closeTime": newest.time_ms}
    count = min(_number(query, "limit", 500), _MOST_ROWS)
    if name in ("klines", "uiKlines"):
        return _klines(market, query, count, now_ms)
    trades = list(market.trades)
    if name == "aggTrades":
        return _agg_trades(market, trades, query, count)
    first = _number(query, "fromId", -1) if name == "historicalTrades" else -1
    chosen = [one for one in trades if one.number >= first][:count] if first >= 0 else trades[-count:]
    return [
        {
            "id": one.number,
            "price": decimal(one.price, market.digits),
            "qty": texts.size(one.size),
            "quoteQty": texts.size(one.size),
            "time": one.time_ms,
            "isBuyerMaker": one.buyer_is_maker,
            "isBestMatch": True,
        }
        for one in chosen
    ]


def _agg_trades(
    market: FakeMarket, trades: list[MarketTrade], query: Mapping[str, str], count: int
) -> list[dict[str, object]]:
    groups = texts.aggregates(trades)
    if "fromId" in query:
        first = _number(query, "fromId", 0)
        chosen = [group for group in groups if group[0].aggregate >= first][:count]
    elif "startTime" in query or "endTime" in query:
        start, end = _number(query, "startTime", 0), _number(query, "endTime", 10**18)
        chosen = [group for group in groups if start <= group[0].time_ms <= end]
        chosen = chosen[:count] if "startTime" in query else chosen[-count:]
    else:
        chosen = groups[-count:]
    return [
        {key: value for key, value in texts.agg_trade(market, group, 0).items() if key not in ("e", "E", "s")}
        for group in chosen
    ]


def _klines(market: FakeMarket, query: Mapping[str, str], count: int, now_ms: int) -> list[list[object]]:
    interval = query.get("interval", "")
    if interval not in texts.INTERVALS:
        raise _Fault(-1120, "Invalid interval.")
    start, end = _number(query, "startTime", 0), _number(query, "endTime", 10**18)
    found = [
        (open_ms, trades)
        for open_ms, trades in texts.candles(market, texts.INTERVALS[interval]).items()
        if start <= open_ms <= end
    ]
    chosen = found[:count] if "startTime" in query else found[-count:]
    rows: list[list[object]] = []
    for open_ms, trades in chosen:
        k = texts.kline(market, interval, open_ms, trades, now_ms, closed=False)["k"]
        rows.append([k[key] for key in "tohlcvTqnVQB"])  # type: ignore[index]
    return rows


def _tickers(name: str, query: Mapping[str, str], markets: Mapping[str, FakeMarket], now_ms: int) -> object:
    chosen = [_market(markets, query)] if "symbol" in query else list(markets.values())
    made = []
    for market in chosen:
        full = texts.ticker(market, now_ms)
        if name == "bookTicker":
            quote = {"bidPrice": full["b"], "bidQty": full["B"], "askPrice": full["a"], "askQty": full["A"]}
            made.append({"symbol": market.symbol, **quote})
        elif name == "price":
            made.append({"symbol": market.symbol, "price": full["c"]})
        else:
            names = {"lastPrice": "c", "openPrice": "o", "highPrice": "h", "lowPrice": "l", "volume": "v"}
            names |= {"quoteVolume": "q", "bidPrice": "b", "askPrice": "a", "openTime": "O", "closeTime": "C"}
            made.append({"symbol": market.symbol, **{long: full[short] for long, short in names.items()}})
    return made[0] if "symbol" in query else made


def _exchange_info(
    rows: Mapping[str, Row], query: Mapping[str, str], limits: Mapping[str, int], now_ms: int
) -> dict[str, object]:
    asked = query.get("symbol")
    if asked is not None and asked not in rows:
        raise _Fault(-1121, "Invalid symbol.")
    minute = {"interval": "MINUTE", "intervalNum": 1}
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [{"rateLimitType": kind, **minute, "limit": limit} for kind, limit in limits.items()],
        "exchangeFilters": [],
        "symbols": [
            _exchange_info_row(symbol, row)
            for symbol, row in rows.items()
            if asked is None or symbol == asked
        ],
    }


def _exchange_info_row(symbol: str, row: Row) -> dict[str, object]:
    tick = decimal(1, row.digits)
    return {
        "symbol": symbol,
        "status": row.status,
        "baseAsset": row.base,
        "baseAssetPrecision": 8,
        "quoteAsset": row.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": "1000000.00000000",
                "tickSize": tick,
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": "0.00000100",
                "maxQty": "9000.00000000",
                "stepSize": "0.00000100",
            },
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_MAKER"],
    }
