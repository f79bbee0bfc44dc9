"""Who waits for a venue's answer to a feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from ..demand import FeedStatus
from ..model import Feed, Topic
from ..supervisor import SupervisedBroker

__all__ = ["PendingFeeds"]

Settled: TypeAlias = Callable[[str | None], None]
"""Called once: with None when the venue confirmed the feed, else with the reason of its refusal."""


class PendingFeeds:
    """Waiting clients by topic, told once when the broker answers."""

    def __init__(self, brokers: Iterable[SupervisedBroker]) -> None:
        self._waiting: dict[Topic, dict[object, Settled]] = {}
        for broker in brokers:
            broker.demand.watch(partial(self._on_status, broker.name))

    def add(self, topic: Topic, who: object, settled: Settled) -> None:
        """Call ``settled`` when the broker answered for the topic."""
        self._waiting.setdefault(topic, {})[who] = settled

    def discard(self, topic: Topic, who: object) -> None:
        """Wait no longer."""
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.pop(who, None)
            if not waiting:
                del self._waiting[topic]

    def waits(self, topic: Topic, who: object) -> bool:
        """Tell whether the broker's answer is still to come."""
        return who in self._waiting.get(topic, ())

    def _on_status(self, broker: str, feed: Feed, status: FeedStatus, reason: str) -> None:
        if status == "pending":
            return
        for settled in self._waiting.pop(Topic(broker, *feed), {}).values():
            settled(None if status == "active" else reason)
