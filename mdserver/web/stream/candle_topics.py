"""The candle topics of one client: the source of each, and those that have just been subscribed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio

from ...model import Feed, Published, Topic
from ...plugin import BrokerPlugin
from ...stream.live_candles import LiveCandles

__all__ = ["CandleTopics"]

READ_S = 1.0
"""How long a snapshot waits for candles that nobody has subscribed to yet; while the database is away, in vain."""


class CandleTopics:
    """Translates between a client's topics and the feeds of its brokers; they differ only for candles.

    If a broker has candles of its own, they are subscribed there. Otherwise they are made from the broker's ticks or
    trades (its ``candles_from``).
    """

    __slots__ = ("_candles", "_from", "_made", "_new")

    def __init__(self, candles: LiveCandles | None) -> None:
        self._candles = candles
        self._from: dict[Topic, Topic] = {}
        self._made: dict[Topic, dict[Topic, None]] = {}
        self._new: list[Topic] = []

    def __bool__(self) -> bool:
        return bool(self._from)

    def refusal(self, plugin: BrokerPlugin) -> str | None:
        """Return why there are no candles of a broker, or None."""
        if self._candles is None and "candle" not in plugin.types:
            return "no live candles: they are made from what is stored, and database.store is off"
        return None

    @staticmethod
    def source(feed: Feed, plugin: BrokerPlugin) -> Feed:
        """Return the feed to subscribe at a broker."""
        if feed.type != "candle" or "candle" in plugin.types:
            return feed
        return Feed(feed.symbol, plugin.candles_from)

    def hold(self, topic: Topic, source: Feed) -> None:
        """Add a topic of the client."""
        if self._candles is None or source.type == topic.type:
            return
        venue = self._from[topic] = Topic(topic.broker, *source)
        self._made.setdefault(venue, {})[topic] = None
        self._candles.hold(topic, source.type)
        self._new.append(topic)

    def release(self, topic: Topic) -> Topic:
        """Remove a topic of the client; return the one that was subscribed at its broker."""
        venue = self._from.pop(topic, None)
        if venue is None or self._candles is None:
            return topic
        del self._made[venue][topic]
        if not self._made[venue]:
            del self._made[venue]
        self._candles.release(topic, venue.type)
        return venue

    def makes(self, topic: Topic) -> bool:
        """Return whether the server makes these candles itself."""
        return topic in self._from

    def made_from(self, venue: Topic) -> Iterator[Topic]:
        """Yield the topics that the client may hold because of a venue's feed: the feed itself and candles."""
        yield venue
        yield from tuple(self._made.get(venue, ()))

    async def wait_read(self, topics: Iterable[Topic]) -> None:
        """Wait until the forming candles of topics are known, at most :data:`READ_S`."""
        with trio.move_on_after(READ_S):
            for topic in topics:
                venue = self._from.get(topic)
                if venue is not None and self._candles is not None:
                    await self._candles.wait_read(topic, venue.type)

    def forming(self, topic: Topic) -> list[Published]:
        """Return the known forming candles of a topic; none if the server does not make its candles."""
        venue = self._from.get(topic)
        if venue is None or self._candles is None:
            return []
        return self._candles.forming(topic, venue.type)

    def new_forming(self) -> Iterator[Published]:
        """Yield the known forming candles of topics that were subscribed since the last call."""
        new, self._new = self._new, []
        for topic in new:
            yield from self.forming(topic)
