"""What the conformance suite needs to know of this plugin: the fake OANDA, whose prices only the suite moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager

from mdserver.model import Feed
from mdserver.symbols import canonical
from mdserver.testing.conformance import BrokerCase
from mdserver.testing.oanda import FakeOanda, FakeQuote, HttpFault, OandaRules, open_fake_oanda

from . import plugin
from .broker import OandaBroker, Timing
from .config import OandaConfig

__all__ = ["OandaCase", "case"]

_NAMES = {"EURUSD": "EUR_USD", "GBPUSD": "GBP_USD"}


class OandaCase(BrokerCase[FakeOanda]):
    """Prices of two currency pairs."""

    plugin = plugin
    symbols = tuple(_NAMES)

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()

    def open_venue(self) -> AbstractAsyncContextManager[FakeOanda]:
        """Open one with quick heartbeats, and as many connections as the suite needs."""
        return open_fake_oanda(OandaRules(heartbeat_s=0.2, price_every_s=None, max_connects=100_000))

    def settings(self, venue: FakeOanda) -> Mapping[str, object]:
        """Return the addresses, the account and a short patience."""
        return {
            "url": venue.url,
            "rest_url": venue.rest_url,
            "account_id": venue.account_id,
            "api_key": venue.api_key,
            "silence_s": 1.0,
        }

    def make_broker(self, config: OandaConfig) -> OandaBroker:
        """Return one that changes streams quickly."""
        timing = Timing(connect_gap_s=0.0, gather_s=0.02, settle_s=1.0, overlap_s=0.05, retry_s=0.1)
        return OandaBroker(config, timing)

    def served(self, venue: FakeOanda) -> Collection[str]:
        """Return the instruments of the streams."""
        return {canonical(name) for stream in venue.streams for name in stream.names}

    async def send(self, venue: FakeOanda, feed: Feed) -> float:
        """Push a price, a point higher each time."""
        self._sent[feed.symbol] += 1
        bid = f"{1 + self._sent[feed.symbol] / 100_000:.5f}"
        await venue.push(
            _NAMES[feed.symbol], FakeQuote(bids=((bid, 1_000_000),), asks=(("2.00000", 1_000_000),))
        )
        return float(bid)

    async def cut(self, venue: FakeOanda) -> None:
        """Reset the streams in the middle of a line."""
        for stream in list(venue.streams):
            await stream.reset(b'{"type":"PRI')

    async def go_dark(self, venue: FakeOanda) -> None:
        """Leave the streams open and mute."""
        for stream in venue.streams:
            stream.mute()

    async def garbage(self, venue: FakeOanda, data: bytes) -> None:
        """Send it as a line."""
        for stream in list(venue.streams):
            await stream.send(data + b"\n")

    async def refuse(self, venue: FakeOanda, status: int) -> None:
        """Turn every request down, and end the streams."""
        venue.heal()
        venue.fail(HttpFault("status", status, body={"errorMessage": "no"}))
        await self.cut(venue)

    async def admit(self, venue: FakeOanda) -> None:
        """Answer again."""
        venue.heal()


case = OandaCase()
