"""What the tests of sessions share: feeds, messages of the venue, a session that ends."""

from collections.abc import Awaitable, Callable

from mdserver.model import Feed, Tick
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.broker import Timing

__all__ = [
    "BTC",
    "BTC_BOOK",
    "BTC_FULL",
    "BTC_TRADES",
    "ETH",
    "QUICK",
    "Start",
    "bids",
    "push_tickers",
    "run",
    "ticker",
    "trade",
]


Start = Callable[..., Awaitable[BinanceBroker]]
BTC = Feed("BTCUSDT", "tick")
BTC_TRADES = Feed("BTCUSDT", "trade")
BTC_BOOK, BTC_FULL = Feed("BTCUSDT", "orderbook", "25"), Feed("BTCUSDT", "orderbook", "full")
ETH = Feed("ETHUSDT", "tick")
QUICK = Timing(lifetime_s=3600.0, overlap_s=0.1, retry_s=0.05)


def ticker(number: int, symbol: str = "BTCUSDT") -> dict[str, object]:
    return {"u": number, "s": symbol, "b": f"{number}.5", "B": "1", "a": f"{number}.75", "A": "2"}


def trade(number: int) -> dict[str, object]:
    time = 1672515782136 + number
    return {
        "e": "trade",
        "E": time,
        "s": "BTCUSDT",
        "t": number,
        "p": "5",
        "q": "1",
        "T": time,
        "m": False,
        "M": True,
    }


async def push_tickers(venue: FakeBinance, numbers: range) -> None:
    for number in numbers:
        await venue.push("btcusdt@bookTicker", ticker(number))


def bids(host: FakeHost) -> list[float]:
    return [record.bid for record in host.records if isinstance(record, Tick)]


async def run(venue: FakeBinance, host: FakeHost, **settings: object) -> None:
    addresses = {"url": venue.url, "rest_url": venue.rest_url}
    config = BinanceConfig(**(addresses | settings))  # type: ignore[arg-type]
    await BinanceBroker(config, QUICK).run(host)
