"""What the conformance suite needs to know of this plugin: the fake Kraken, where only the suite lets things happen."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager

from mdserver.model import Feed
from mdserver.symbols import canonical
from mdserver.testing.conformance import WebSocketCase
from mdserver.testing.kraken import FakeKraken, KrakenRules, open_fake_kraken

from . import plugin
from .broker import KrakenBroker
from .config import KrakenConfig
from .link import Timing

__all__ = ["KrakenCase", "case"]

_PAIRS = {"BTCUSD": "BTC/USD", "EURUSD": "EUR/USD"}


class KrakenCase(WebSocketCase[FakeKraken]):
    """Ticks, trades and books of two pairs."""

    plugin = plugin
    symbols = tuple(_PAIRS)
    burst = 50

    def open_venue(self) -> AbstractAsyncContextManager[FakeKraken]:
        """Open one that allows as many connections and requests as the suite needs."""
        rules = KrakenRules(pace_s=math.inf, heartbeat_s=0.2, max_connects=10_000, rest_burst=10_000)
        return open_fake_kraken(rules)

    def settings(self, venue: FakeKraken) -> Mapping[str, object]:
        """Return the addresses and a short patience."""
        return {"url": venue.url, "rest_url": venue.rest_url, "silence_s": 2.0}

    def make_broker(self, config: KrakenConfig) -> KrakenBroker:
        """Return one that asks quickly."""
        return KrakenBroker(config, Timing(answer_s=0.3, request_gap_s=0.01, renew_s=0.1, instruments_s=2.0))

    def served(self, venue: FakeKraken) -> Collection[str]:
        """Return the pairs of the topics ``channel:BTC/USD:…``."""
        return {canonical(topic.split(":")[1]) for topic in venue.topics if ":" in topic}

    async def send(self, venue: FakeKraken, feed: Feed) -> float:
        """Let things happen in the market until there is a record of the feed."""
        name = _PAIRS[feed.symbol]
        market = venue.markets[name]
        scale = float(10**market.pair.price_digits)
        if feed.type == "trade":
            return venue.trade(name)[-1].price / scale
        before = market.best()
        while market.best() == before:
            venue.step(name)
        return market.best()[0][0] / scale


case = KrakenCase()
