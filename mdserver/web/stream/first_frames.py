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

    Of candles made by the server it is the forming one. The records that the router has collected are sent first, so
    that none is missing between these and new records.
    """
    router.flush()
    found: dict[
        tuple[Topic, int], Published
    ] = {}  # by open time too: a second candle forms before the first closes
    for topic in topics:
        if candles.makes(topic):
            some = candles.forming(topic)
        elif topic.symbol == EVERY:
            some = router.last_of_every(topic)
        else:
            some = [last] if (last := router.last(topic)) is not None else []
        found |= {(one.topic, one.record.time_us): one for one in some}
    frames = []
    for last in found.values():
        terms = held.terms_of(last.topic)
        if terms is not None:
            frames.append(terms.encoding.snapshot(last))
    return b"".join(frames)


def forming_frames(candles: CandleTopics, held: Holdings) -> bytes:
    """Return the forming candles of new subscriptions."""
    frames = []
    for one in candles.new_forming():
        terms = held.terms_of(one.topic)
        if terms is not None:
            frames.append(terms.encoding.frame(one))
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
