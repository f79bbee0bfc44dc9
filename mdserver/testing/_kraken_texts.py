"""The fake Kraken's messages as text, without I/O. Like the venue's, numbers are unquoted and have all their digits."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable

from ._kraken_market import FakeMarket, FakeTrade, Pair, Window, checksum, decimal, qty

__all__ = [
    "acknowledgement",
    "book",
    "candles",
    "instrument",
    "ohlc",
    "refusal",
    "rfc3339",
    "status",
    "ticker",
    "trade",
]


def rfc3339(time_ns: int, digits: int = 6) -> str:
    """Return a time as the venue writes it."""
    whole, rest = divmod(time_ns, 10**9)
    moment = datetime.datetime.fromtimestamp(whole, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}"[: 20 + digits] + "Z"


def status(connection_id: int, system: str) -> str:
    """Return the first frame of a connection."""
    row = {
        "version": "2.0.10",
        "system": system,
        "api_version": "v2",
        "connection_id": connection_id,
        "upcoming_maintenance": [],
        "emergency": [],
    }
    return _json({"channel": "status", "type": "update", "data": [row]})


def acknowledgement(method: str, result: dict[str, object], req_id: object, now_ns: int) -> str:
    """Return the answer for one symbol of a request that was accepted."""
    return _json({"method": method, "result": result, "success": True} | _times(now_ns) | _req_id(req_id))


def refusal(method: str, error: str, symbol: str | None, req_id: object, now_ns: int) -> str:
    """Return the answer for one symbol of a request that was refused."""
    named = {} if symbol is None else {"symbol": symbol}
    message = {"error": error, "method": method, "success": False}
    return _json(message | named | _times(now_ns) | _req_id(req_id))


def book(pair: Pair, kind: str, levels: Window, whole: Window, now_ns: int, *, damage: int = 0) -> str:
    """Return a book message: ``levels`` are sent, the checksum is that of ``whole``, plus ``damage``."""
    bids, asks = (
        ",".join(
            f'{{"price":{decimal(price, pair.price_digits)},"qty":{qty(size)}}}'
            for price, size in side.items()
        )
        for side in levels
    )
    crc = (checksum(pair, whole) + damage) % 2**32
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{pair.symbol}","bids":[{bids}],"asks":[{asks}],'
        f'"checksum":{crc},"timestamp":"{rfc3339(now_ns)}"}}]}}'
    )


def ticker(market: FakeMarket, kind: str, now_ns: int) -> str:
    """Return a ticker message."""
    digits = market.pair.price_digits
    (bid, bid_qty), (ask, ask_qty) = market.best()
    prices = [t.price for t in market.trades] or [bid]
    volume = sum(t.qty for t in market.trades)
    change = prices[-1] - prices[0]
    sign = "-" if change < 0 else ""
    return (
        f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"{market.pair.symbol}",'
        f'"bid":{decimal(bid, digits)},"bid_qty":{qty(bid_qty)},"ask":{decimal(ask, digits)},'
        f'"ask_qty":{qty(ask_qty)},"last":{decimal(prices[-1], digits)},"volume":{qty(volume)},'
        f'"vwap":{decimal(sum(prices) // len(prices), digits)},"low":{decimal(min(prices), digits)},'
        f'"high":{decimal(max(prices), digits)},"change":{sign}{decimal(abs(change), digits)},'
        f'"change_pct":{100 * change / prices[0]:.2f},"timestamp":"{rfc3339(now_ns)}"}}]}}'
    )


def trade(pair: Pair, kind: str, trades: Iterable[FakeTrade]) -> str:
    """Return one trade message with all ``trades``."""
    rows = ",".join(
        f'{{"symbol":"{pair.symbol}","side":"{t.side}","price":{decimal(t.price, pair.price_digits)},'
        f'"qty":{qty(t.qty)},"ord_type":"{t.kind}","trade_id":{t.trade_id},'
        f'"timestamp":"{rfc3339(t.time_ns)}"}}'
        for t in trades
    )
    return f'{{"channel":"trade","type":"{kind}","data":[{rows}]}}'


def candles(market: FakeMarket, minutes: int) -> dict[int, list[FakeTrade]]:
    """Return the trades of each interval with trades, by its start in seconds, oldest first."""
    found: dict[int, list[FakeTrade]] = {}
    for each in market.trades:
        start_s = each.time_ns // 10**9 // (60 * minutes) * 60 * minutes
        found.setdefault(start_s, []).append(each)
    return found


def ohlc(pair: Pair, kind: str, minutes: int, intervals: dict[int, list[FakeTrade]], now_ns: int) -> str:
    """Return a candle message."""
    digits = pair.price_digits
    rows = ",".join(
        f'{{"symbol":"{pair.symbol}","open":{decimal(trades[0].price, digits)},'
        f'"high":{decimal(max(t.price for t in trades), digits)},'
        f'"low":{decimal(min(t.price for t in trades), digits)},'
        f'"close":{decimal(trades[-1].price, digits)},"trades":{len(trades)},'
        f'"volume":{qty(sum(t.qty for t in trades))},'
        f'"vwap":{decimal(sum(t.price for t in trades) // len(trades), digits)},'
        f'"interval_begin":"{rfc3339(start_s * 10**9, 9)}","interval":{minutes},'
        f'"timestamp":"{rfc3339((start_s + 60 * minutes) * 10**9)}"}}'
        for start_s, trades in intervals.items()
    )
    return f'{{"channel":"ohlc","type":"{kind}","timestamp":"{rfc3339(now_ns, 9)}","data":[{rows}]}}'


def instrument(pairs: Iterable[Pair], kind: str) -> str:
    """Return the list of assets and pairs."""
    pairs = list(pairs)
    assets = [
        {"id": name, "status": "enabled", "precision": 10, "precision_display": 5, "borrowable": True}
        for name in dict.fromkeys(asset for pair in pairs for asset in (pair.base, pair.quote))
    ]
    rows = [
        {
            "symbol": pair.symbol,
            "base": pair.base,
            "quote": pair.quote,
            "status": pair.status,
            "qty_precision": 8,
            "qty_increment": 1e-08,
            "price_precision": pair.price_digits,
            "price_increment": 10**-pair.price_digits,
            "cost_precision": 5,
            "cost_min": 0.5,
            "marginable": False,
            "has_index": True,
            "qty_min": 0.0001,
        }
        for pair in pairs
    ]
    return _json({"channel": "instrument", "type": kind, "data": {"assets": assets, "pairs": rows}})


def _times(now_ns: int) -> dict[str, str]:
    return {"time_in": rfc3339(now_ns), "time_out": rfc3339(now_ns + 35_000)}


def _req_id(req_id: object) -> dict[str, object]:
    return {} if req_id is None else {"req_id": req_id}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
