"""The first frames of a new subscription, before any new record: last records, and gaps that still last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ...feed.supervised_broker import SupervisedBroker
from ...model import Feed, Published, Topic
from ...protocol.requests import EVERY
from ...stream.router import Router
from .candle_topics import CandleTopics
from .holdings import Holdings

__all__ = ["forming_frames", "hole_frames", "last_frames"]


def last_frames(topics: Iterable[Topic], held: Holdings, router: Router, candles: CandleTopics) -> bytes:
    """Return the last record of each topic, marked as such; send it before the topics go to the router.

    The records that the router has collected are sent first, so that none is missing between these and new records.
    Candles made by the server are left out, because :func:`forming_frames` sends the forming ones.
    """
    router.flush()
    found: dict[Topic, Published] = {}
    for topic in topics:
        if topic.symbol == EVERY:
            found |= {one.topic: one for one in router.last_of_every(topic)}
        elif not candles.makes(topic) and (last := router.last(topic)) is not None:
            found[topic] = last
    frames = []
    for topic, last in found.items():
        terms = held.terms_of(topic)
        if terms is not None:
            frames.append(terms.encoding.snapshot(last))
    return b"".join(frames)


def forming_frames(candles: CandleTopics, held: Holdings, *, snapshot: bool) -> bytes:
    """Return the forming candles of new subscriptions; with ``snapshot`` they are marked as last records."""
    frames = []
    for one in candles.new_forming():
        terms = held.terms_of(one.topic)
        if terms is not None:
            frames.append((terms.encoding.snapshot if snapshot else terms.encoding.frame)(one))
    return b"".join(frames)


def hole_frames(topics: Iterable[Topic], held: Holdings, brokers: Mapping[str, SupervisedBroker]) -> bytes:
    """Return the gaps that topics are in now: no record has arrived since they began."""
    frames = []
    for topic in topics:
        broker = brokers.get(topic.broker)
        for feed in () if broker is None else _feeds(broker, topic):
            hole = None if broker is None else broker.host.hole(feed)
            terms = None if hole is None else held.terms_of(hole.topic)
            if hole is not None and terms is not None:
                frames.append(terms.encoding.frame(Published(hole.topic, 0, hole)))
    return b"".join(frames)


def _feeds(broker: SupervisedBroker, topic: Topic) -> Iterator[Feed]:
    if topic.symbol != EVERY:
        yield Feed(*topic[1:])
        return
    for feed in broker.demand.current():
        if feed[1:] == topic[2:]:
            yield feed
