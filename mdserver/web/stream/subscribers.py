"""Which clients hold which feeds: they are told what their venues say to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from ...feed.demand import FeedChange
from ...feed.supervisor import SupervisedBroker
from ...model import Topic

__all__ = ["Subscriber", "Subscribers"]


class Subscriber(Protocol):
    """A client, as what is told of its feeds."""

    def feeds_changed(self, broker: str, changes: Sequence[FeedChange]) -> None:
        """Take what a broker's venue said, at once, to feeds that this client holds."""
        ...


class Subscribers:
    """The clients by topic. What a venue settles at once reaches each of them in one call."""

    def __init__(self, brokers: Iterable[SupervisedBroker]) -> None:
        self._holders: dict[Topic, dict[Subscriber, None]] = {}
        for broker in brokers:
            broker.demand.watch(partial(self._on_changes, broker.name))

    def add(self, topic: Topic, holder: Subscriber) -> None:
        """Tell ``holder`` of the topic's feed from now on."""
        self._holders.setdefault(topic, {})[holder] = None

    def discard(self, topic: Topic, holder: Subscriber) -> None:
        """Tell it no more."""
        holders = self._holders.get(topic)
        if holders is not None:
            holders.pop(holder, None)
            if not holders:
                del self._holders[topic]

    def _on_changes(self, broker: str, changes: Sequence[FeedChange]) -> None:
        concerned: dict[Subscriber, list[FeedChange]] = {}
        for change in changes:
            for holder in self._holders.get(Topic(broker, *change.feed), ()):
                concerned.setdefault(holder, []).append(change)
        for holder, theirs in concerned.items():
            holder.feeds_changed(broker, theirs)
