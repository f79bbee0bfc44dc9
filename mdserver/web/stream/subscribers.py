"""The clients by the feeds that they hold; they get the venues' answers and the states of their brokers."""

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
    """A client, as far as messages about its feeds are concerned."""

    @property
    def wire(self) -> Wire:
        """The encoding of its messages."""
        ...

    def tell(self, frames: bytes) -> None:
        """Send the client whole frames."""
        ...

    def feeds_changed(self, broker: str, changes: Sequence[FeedChange]) -> None:
        """Handle simultaneous answers of a broker's venue to feeds of this client."""
        ...


class Subscribers:
    """The clients by topic. Simultaneous answers of a venue reach each client in one call."""

    def __init__(self) -> None:
        self._holders: dict[Topic, dict[Subscriber, None]] = {}
        self._topics_held: dict[str, dict[Subscriber, int]] = {}
        """By broker: its clients, and the number of its topics that each holds."""
        self._watchers: dict[str, Watcher] = {}

    def watch(self, broker: SupervisedBroker) -> None:
        """Pass the answers of a broker's venue to its clients."""
        watcher = self._watchers[broker.name] = partial(self._on_changes, broker.name)
        broker.demand.watch(watcher)

    def unwatch(self, broker: SupervisedBroker) -> None:
        """Stop watching a removed broker."""
        broker.demand.unwatch(self._watchers.pop(broker.name))

    def of_broker(self, name: str) -> Collection[Subscriber]:
        """Return the clients that hold any feed of a broker."""
        return self._topics_held.get(name, {}).keys()

    def add(self, topic: Topic, holder: Subscriber) -> None:
        """Add ``holder`` to the clients of a topic."""
        holders = self._holders.setdefault(topic, {})
        if holder not in holders:
            holders[holder] = None
            held = self._topics_held.setdefault(topic.broker, {})
            held[holder] = held.get(holder, 0) + 1

    def discard(self, topic: Topic, holder: Subscriber) -> None:
        """Remove ``holder`` from the clients of a topic."""
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
