"""What the conformance suite needs to know of this plugin: the fake Binance and how it misbehaves."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mdserver.model import Feed
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.conformance import BrokerCase

from . import plugin
from .broker import BinanceBroker, Timing
from .codec import stream_name
from .config import BinanceConfig

__all__ = ["BinanceCase", "case"]


class BinanceCase(BrokerCase[FakeBinance]):
    """Ticks, trades and books of two symbols; symbols are checked against the exchange's list."""

    plugin = plugin
    symbols = ("BTCUSDT", "ETHUSDT")

    def __init__(self) -> None:
        self._sent: Counter[Feed] = Counter()

    def open_venue(self) -> AbstractAsyncContextManager[FakeBinance]:
        """Open one that allows as many requests and connections as the suite needs."""
        return _open_venue(BinanceRules(max_messages_per_s=1000, max_connects=10_000, pace_s=math.inf))

    def settings(self, venue: FakeBinance) -> Mapping[str, object]:
        """Return the addresses and a short patience."""
        return {"url": venue.url, "rest_url": venue.rest_url, "silence_s": 1.0}

    def make_broker(self, config: BinanceConfig) -> BinanceBroker:
        """Return one that changes connections quickly."""
        return BinanceBroker(config, Timing(overlap_s=0.1, retry_s=0.05, connects=10_000))

    def served(self, venue: FakeBinance) -> Collection[str]:
        """Return the symbols of the streams."""
        return {name.partition("@")[0].upper() for name in venue.streams}

    async def send(self, venue: FakeBinance, feed: Feed) -> float:
        """Push a quote or an execution, a cent higher each time."""
        self._sent[feed] += 1
        number = self._sent[feed]
        price = f"{30_000 + number / 100:.8f}"
        now_ms = time.time_ns() // 1_000_000
        payload: dict[str, object] = {
            "u": number,
            "s": feed.symbol,
            "b": price,
            "B": "1.5",
            "a": "40000.00",
            "A": "2",
        }
        if feed.type == "trade":
            payload = {
                "e": "trade",
                "E": now_ms,
                "s": feed.symbol,
                "t": number,
                "p": price,
                "q": "0.25",
                "T": now_ms,
            }
            payload |= {"m": False, "M": True}
        elif feed.type == "orderbook":
            payload = {"lastUpdateId": number, "bids": [[price, "1.5"]], "asks": [["40000.00", "2"]]}
        await venue.push(stream_name(feed, "trade"), payload)
        return float(price)

    async def cut(self, venue: FakeBinance) -> None:
        """Reset the connections."""
        for connection in list(venue.connections):
            connection.reset()

    async def go_dark(self, venue: FakeBinance) -> None:
        """Leave even pings unanswered."""
        venue.rules.answer_pings = venue.rules.answer_requests = False

    async def garbage(self, venue: FakeBinance, data: bytes) -> None:
        """Send it as a text message."""
        for connection in list(venue.connections):
            await connection.send_text(data.decode(errors="replace"))

    async def refuse(self, venue: FakeBinance, status: int) -> None:
        """Turn streams and REST down."""
        venue.rules.refuse = venue.rules.rest_refuse = (status, {}, "")
        await self.cut(venue)

    async def admit(self, venue: FakeBinance) -> None:
        """Accept and answer again."""
        venue.rules.refuse = venue.rules.rest_refuse = None
        venue.rules.answer_pings = venue.rules.answer_requests = True


@asynccontextmanager
async def _open_venue(rules: BinanceRules) -> AsyncIterator[FakeBinance]:
    async with open_fake_binance(rules) as venue:
        venue.instruments = {"BTCUSDT": ("TRADING", "BTC", "USDT"), "ETHUSDT": ("TRADING", "ETH", "USDT")}
        yield venue


case = BinanceCase()
