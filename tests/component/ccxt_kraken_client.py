"""ccxt as its users use it, against the address given: prints what it got as one line of JSON. Run as a program."""

import asyncio
import json
import sys

import ccxt.pro


async def main(url: str, rest_url: str) -> None:
    exchange = ccxt.pro.kraken({"rateLimit": 20})  # it asks once a second otherwise
    api = exchange.urls["api"]
    api.update({name: rest_url for name, at in api.items() if isinstance(at, str) and "kraken.com" in at})
    api["ws"].update(dict.fromkeys(api["ws"], url))
    got: dict[str, object] = {}
    try:
        async with asyncio.timeout(150):
            got["markets"] = sorted(await exchange.load_markets())
            got["currencies"] = sorted(exchange.currencies)
            got["status"] = (await exchange.fetch_status())["status"]
            got["time"] = await exchange.fetch_time()
            got["trades"] = len(await exchange.fetch_trades("BTC/USD"))
            got["candle"] = len((await exchange.fetch_ohlcv("BTC/USD", "1m"))[-1])
            got["ticker"] = (await exchange.fetch_ticker("DOGE/USD"))["bid"]
            got["depth"] = len((await exchange.fetch_order_book("ETH/USD", 20))["asks"])
            books = []
            for _ in range(10):
                book = await exchange.watch_order_book("BTC/USD", 10)
                books.append([book["bids"][0][0], book["asks"][0][0], len(book["bids"]), len(book["asks"])])
            got["books"] = books
            got["live_trade"] = (await exchange.watch_trades("ETH/USD"))[-1]["side"]
            got["live_ticker"] = (await exchange.watch_ticker("DOGE/USD"))["ask"]
            got["live_bid"] = (await exchange.watch_bids_asks(["EUR/USD"]))["EUR/USD"]["bid"]
            got["live_candle"] = len((await exchange.watch_ohlcv("BTC/EUR", "1m"))[-1])
    finally:
        await exchange.close()
    print(json.dumps(got))  # noqa: T201


asyncio.run(main(*sys.argv[1:]))
