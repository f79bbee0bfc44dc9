"""Which clients hold which feeds: they are told what their venues say to them, and how their brokers are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Protocol

from ...feed.demand import FeedChange, Watcher
from ...feed.supervised_broker import SupervisedBroker
from ...model import Topic
from ...protocol.encoding import Wire

__all__ = ["Subscriber", "Subscribers"]


class Subscriber(Protocol):
    """A client, as what is told of its feeds."""

    @property
    def wire(self) -> Wire:
        """How it gets what it is sent."""
        ...

    def tell(self, frames: bytes) -> None:
        """Send the client whole frames."""
        ...

    def feeds_changed(self, broker: str, changes: Sequence[FeedChange]) -> None:
        """Take what a broker's venue said, at once, to feeds that this client holds."""
        ...


class Subscribers:
    """The clients by topic. What a venue settles at once reaches each of them in one call."""

    def __init__(self) -> None:
        self._holders: dict[Topic, dict[Subscriber, None]] = {}
        self._topics_held: dict[str, dict[Subscriber, int]] = {}
        """By broker: its clients and how many of its topics each holds."""
        self._watchers: dict[str, Watcher] = {}

    def watch(self, broker: SupervisedBroker) -> None:
        """Tell a broker's clients what its venue says to their feeds."""
        watcher = self._watchers[broker.name] = partial(self._on_changes, broker.name)
        broker.demand.watch(watcher)

    def unwatch(self, broker: SupervisedBroker) -> None:
        """Hear no more of a broker that has gone."""
        broker.demand.unwatch(self._watchers.pop(broker.name))

    def of_broker(self, name: str) -> Collection[Subscriber]:
        """Return the clients that hold any feed of a broker."""
        return self._topics_held.get(name, {}).keys()

    def add(self, topic: Topic, holder: Subscriber) -> None:
        """Tell ``holder`` of the topic's feed from now on."""
        holders = self._holders.setdefault(topic, {})
        if holder not in holders:
            holders[holder] = None
            held = self._topics_held.setdefault(topic.broker, {})
            held[holder] = held.get(holder, 0) + 1

    def discard(self, topic: Topic, holder: Subscriber) -> None:
        """Tell it no more."""
        holders = self._holders.get(topic)
        if holders is None or holder not in holders:
            return
        del holders[holder]
        if not holders:
            del self._holders[topic]
        held = self._topics_held[topic.broker]
        held[holder] -= 1
        if not held[holder]:
            del held[holder]

    def _on_changes(self, broker: str, changes: Sequence[FeedChange]) -> None:
        concerned: dict[Subscriber, list[FeedChange]] = {}
        for change in changes:
            for holder in self._holders.get(Topic(broker, *change.feed), ()):
                concerned.setdefault(holder, []).append(change)
        for holder, theirs in concerned.items():
            holder.feeds_changed(broker, theirs)
