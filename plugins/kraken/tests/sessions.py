"""What the tests of sessions share: feeds, and the requests that the venue got."""

import json
from collections.abc import Awaitable, Callable

from mdserver.model import Feed
from mdserver.testing.kraken import FakeKraken

__all__ = ["BTC", "BTC_BOOK", "BTC_FULL", "BTC_TRADES", "DOGE", "ETH", "MINA", "Start", "requests"]


Start = Callable[..., Awaitable[None]]
BTC, BTC_TRADES, BTC_BOOK = Feed("BTCUSD", "tick"), Feed("BTCUSD", "trade"), Feed("BTCUSD", "orderbook", "25")
BTC_FULL = Feed("BTCUSD", "orderbook", "full")
ETH = Feed("ETHUSD", "tick")
DOGE = Feed("DOGEUSD", "tick")
MINA = Feed("MINAGBP", "tick")


def requests(venue: FakeKraken, method: str = "subscribe") -> list[dict[str, object]]:
    """The parameters of all requests of a method, in the order in which they came."""
    texts = [text for client in (*venue.past, *venue.clients) for text in client.received]
    return [request["params"] for request in map(json.loads, texts) if request["method"] == method]
