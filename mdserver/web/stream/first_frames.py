"""What a client that has just subscribed is told before anything new comes: last records, and holes that still last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...feed.supervised_broker import SupervisedBroker
from ...kinds import default_variant
from ...model import Feed, Published, Topic
from ...protocol.answers import Outcome
from ...protocol.record_frames import as_snapshot, frame_record
from ...stream.router import Router
from .candle_topics import CandleTopics

__all__ = ["hole_frames", "last_frames"]


def last_frames(
    results: Sequence[Outcome], router: Router, candles: CandleTopics, *, received: bool
) -> bytes:
    """Return the last record of each topic, marked as such; send it before the topics go to the router.

    What the router still collects goes out first, so that nothing lies between these and what is new. Candles that the
    server makes are not among them: the forming ones come by themselves.
    """
    router.flush()
    frames = []
    for result in results:
        if result.broker is None or result.status == "error":
            continue
        variant = result.interval or default_variant(result.type)
        topic = Topic(result.broker, result.symbol, result.type, variant)
        last = None if candles.makes(topic) else router.last(topic)
        if last is not None:
            frames.append(as_snapshot(last, received=received))
    return b"".join(frames)


def hole_frames(results: Sequence[Outcome], brokers: Mapping[str, SupervisedBroker]) -> bytes:
    """Return the holes that topics are in now: nothing has come yet behind their last record."""
    frames = []
    for result in results:
        broker = brokers.get(result.broker or "")
        if broker is None or result.status == "error":
            continue
        hole = broker.host.hole(Feed(result.symbol, result.type, default_variant(result.type)))
        if hole is not None:
            frames.append(frame_record(Published(hole.topic, 0, hole)))
    return b"".join(frames)
