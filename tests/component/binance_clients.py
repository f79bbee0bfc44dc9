"""Binance's own connector, or ccxt, as its users use it, against the addresses given: one line of JSON. A program."""

import asyncio
import json
import sys
import time
from typing import Any

import ccxt.pro
from binance.spot import Spot
from binance.websocket.spot.websocket_stream import SpotWebsocketStreamClient


def connector(url: str, rest_url: str) -> dict[str, Any]:
    """Stream, unsubscribe, ask."""
    got: list[dict[str, Any]] = []
    errors: list[str] = []
    client = SpotWebsocketStreamClient(
        stream_url=url,
        is_combined=True,
        on_message=lambda _, text: got.append(json.loads(text)),
        on_error=lambda _, error: errors.append(repr(error)),
    )

    def streams() -> set[str]:
        return {message["stream"] for message in got if "stream" in message}

    wanted = {"btcusdt@bookTicker", "ethusdt@trade", "btcusdt@depth@100ms", "ethbtc@depth5@100ms"}
    client.subscribe(sorted(wanted))
    deadline = time.monotonic() + 100
    while streams() != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    client.unsubscribe(["btcusdt@bookTicker"])
    client.list_subscribe()
    while not any(message.get("result") for message in got) and time.monotonic() < deadline:
        time.sleep(0.05)
    client.stop()
    rest = Spot(base_url=rest_url)
    return {
        "errors": errors,
        "streams": sorted(streams()),
        "left": next(sorted(message["result"]) for message in got if message.get("result")),
        "time": rest.time()["serverTime"],
        "symbols": sorted(row["symbol"] for row in rest.exchange_info()["symbols"]),
        "depth": len(rest.depth("BTCUSDT", limit=100)["bids"]),
        "klines": len(rest.klines("BTCUSDT", "1m", limit=5)[-1]),
        "agg_trades": len(rest.agg_trades("BTCUSDT", limit=7)),
        "historical": len(rest.historical_trades("BTCUSDT", limit=6)),
        "ticker": rest.book_ticker("ETHUSDT")["bidPrice"],
    }


async def ccxt_pro(url: str, rest_url: str) -> dict[str, Any]:
    """Load the markets, fetch and watch."""
    exchange = ccxt.pro.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}})
    exchange.has["fetchCurrencies"] = False
    api = exchange.urls["api"]
    for name, address in list(api.items()):
        if isinstance(address, str):
            api[name] = address.replace("https://api.binance.com", rest_url)
    api["ws"]["spot"] = f"{url}/ws"
    got: dict[str, Any] = {}
    try:
        async with asyncio.timeout(150):
            got["markets"] = sorted(await exchange.load_markets())
            got["tick"] = exchange.markets["BTC/USDT"]["precision"]["price"]
            got["time"] = await exchange.fetch_time()
            got["trades"] = len(await exchange.fetch_trades("BTC/USDT", limit=50))
            got["candle"] = len((await exchange.fetch_ohlcv("BTC/USDT", "1m"))[-1])
            got["depth"] = len((await exchange.fetch_order_book("ETH/USDT", 20))["asks"])
            books = []
            for _ in range(10):
                book = await exchange.watch_order_book("BTC/USDT")
                books.append([book["bids"][0][0], book["asks"][0][0]])
            got["books"] = books
            got["live_trade"] = (await exchange.watch_trades("ETH/USDT"))[-1]["side"]
            got["live_bid"] = (await exchange.watch_bids_asks(["EUR/USDT"]))["EUR/USDT"]["bid"]
            got["live_ticker"] = (await exchange.watch_ticker("DOGE/USDT"))["last"]
            got["live_candle"] = len((await exchange.watch_ohlcv("BTC/USDT", "1m"))[-1])
    finally:
        await exchange.close()
    return got


if __name__ == "__main__":
    which, *addresses = sys.argv[1:]
    found = connector(*addresses) if which == "connector" else asyncio.run(ccxt_pro(*addresses))
    print(json.dumps(found))  # noqa: T201
