"""The topics of one client: the terms and the broker of each, and the other brokers that may have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from ...feed.supervised_broker import SupervisedBroker
from ...kinds import FULL_BOOK
from ...model import Feed, Topic
from ...protocol.answers import Outcome, Subscription
from ...protocol.requests import EVERY, RequestId
from ...protocol.terms import Terms
from .candle_topics import CandleTopics
from .heartbeats import HEARTBEAT
from .own_brokers import OwnBrokers
from .selection import depth_of, outcome_of
from .subscribers import Subscriber, Subscribers

__all__ = ["Hold", "Holdings"]


@attrs.define(eq=False)
class Hold:
    """A topic that the client holds.

    ``routed``: the terms that the router has, None if it does not have the topic yet; ``others``: the brokers to try if
    this one refuses; ``waiting``: the requests that get a second answer once the
    broker has confirmed or refused the topic.
    """

    terms: Terms
    routed: Terms | None = None
    others: list[SupervisedBroker] = attrs.Factory(list)
    waiting: list[RequestId] = attrs.Factory(list)


class Holdings:
    """The topics of one client. ``brokers`` are those that it may subscribe to, in config order."""

    def __init__(
        self,
        client: Subscriber,
        brokers: Mapping[str, SupervisedBroker],
        own: OwnBrokers,
        candles: CandleTopics,
        holders: Subscribers,
    ) -> None:
        self.brokers = brokers
        self.topics: dict[Topic, Hold] = {}
        self.fresh: dict[Topic, None] = {}
        """Topics that are not routed to the client yet, or still on other terms."""
        self._client = client
        self._own = own
        self._candles = candles
        self._holders = holders

    def symbols(self) -> set[str]:
        """Return the symbols of all topics; ``*`` counts as one."""
        return {topic.symbol for topic in self.topics}

    def candidates(self, feed: Feed, name: str | None) -> Iterator[SupervisedBroker]:
        """Yield the brokers that may have a feed, in config order."""
        for broker in self.brokers.values():
            if name in (None, broker.name) and self._may_have(broker, feed):
                yield broker

    def _may_have(self, broker: SupervisedBroker, feed: Feed) -> bool:
        types = broker.plugin.types
        return (
            (feed.type in types or (feed.type == "candle" and broker.plugin.candles_from in types))
            and self.brokers.get(broker.name) is broker  # not gone since
            and broker.state != "failed"
            and (feed.symbol == EVERY or broker.demand.has(feed.symbol) is not False)
        )

    def take(
        self, request_id: RequestId, feed: Feed, candidates: Sequence[SupervisedBroker], terms: Terms
    ) -> Outcome:
        """Hold a feed at the first candidate; the others are tried if it refuses.

        A topic of all symbols subscribes nothing at the broker: it gets what the config and other clients subscribe to.
        """
        broker, *others = candidates
        topic = Topic(broker.name, *feed)
        hold = self.topics.get(topic)
        source = self._candles.source(feed, broker.plugin)
        if hold is None:
            if feed.symbol != EVERY:
                broker.demand.hold(source)
            self._candles.hold(topic, source)
            hold = self.topics[topic] = Hold(terms, others=others)
            self._own.holders(broker.name, self._holders).add(Topic(broker.name, *source), self._client)
        self._agree(topic, hold, terms)
        if feed.symbol == EVERY or broker.demand.status(source) == "active":
            return outcome_of(topic, terms, "active")
        if request_id not in hold.waiting:
            hold.waiting.append(request_id)
        return outcome_of(topic, terms, "pending")

    def _agree(self, topic: Topic, hold: Hold, terms: Terms) -> None:
        hold.terms = terms
        if hold.routed != terms:
            self.fresh[topic] = None

    def let_go(self, topic: Topic) -> None:
        """Release a topic."""
        del self.topics[topic]
        self.fresh.pop(topic, None)
        source = self._candles.release(topic)
        if not any(one in self.topics for one in self._candles.made_from(source)):
            self._own.holders(source.broker, self._holders).discard(source, self._client)
        if topic.symbol != EVERY:
            self.brokers[topic.broker].demand.release(Feed(*source[1:]))

    def refuse(self, topic: Topic, hold: Hold, reason: str) -> Iterator[tuple[RequestId, Outcome]]:
        """Release a refused feed; if another broker may have it, hold it there instead.

        Yields the answer for each waiting request; if the feed was active before, the answer has no id.
        """
        self.let_go(topic)
        feed = Feed(*topic[1:])
        others = [broker for broker in hold.others if self._may_have(broker, feed)]
        for request_id in hold.waiting or [None]:
            if others:
                outcome = self.take(request_id, feed, others, hold.terms)
            else:
                outcome = outcome_of(topic, hold.terms, "error", 408, reason)
            if outcome.status != "pending":
                yield request_id, outcome

    def is_new_book(self, topic: Topic) -> bool:
        """Whether this is a full book that the client has none of the changes of yet."""
        return topic.variant == FULL_BOOK and self.topics[topic].routed is None

    def holds_every(self, symbols: frozenset[str] | None) -> bool:
        """Restrict topics of all symbols to those that the client may see now; return whether there are such topics."""
        of_every = [topic for topic in self.topics if topic.symbol == EVERY]
        for topic in of_every:
            hold = self.topics[topic]
            self._agree(topic, hold, hold.terms._replace(symbols=symbols))
        return bool(of_every)

    def terms_of(self, topic: Topic) -> Terms | None:
        """Return the terms of a topic, named or as one of all symbols, or None if the client does not get it."""
        hold = self.topics.get(topic) or self.topics.get(topic._replace(symbol=EVERY))
        if hold is None or (hold.terms.symbols is not None and topic.symbol not in hold.terms.symbols):
            return None
        return hold.terms

    def mine(self, seqs: Mapping[Topic, int]) -> dict[Topic, int]:
        """Return, from the numbers of all topics, those of the client's topics."""
        if not self._own and len(self.topics) < len(seqs) and EVERY not in self.symbols():
            return {topic: seqs[topic] for topic in self.topics if topic in seqs}
        return {
            topic: seq
            for topic, seq in seqs.items()
            if self.terms_of(topic) is not None and self._own.is_shared(topic)
        }

    def listed(self, *, beating: bool) -> list[Subscription]:
        """Return the client's subscriptions for its list."""
        rows = [
            Subscription(
                *topic[:3],
                topic.variant if topic.type == "candle" else None,
                depth_of(topic, hold.terms),
            )
            for topic, hold in self.topics.items()
        ]
        return [*rows, Subscription(*HEARTBEAT[:3])] if beating else rows
