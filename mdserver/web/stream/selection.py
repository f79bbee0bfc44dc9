"""Which topics a request means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from ...feed.supervised_broker import SupervisedBroker
from ...model import Feed, Topic
from ...protocol.answers import Outcome
from ...protocol.requests import HEARTBEAT, Fault, Subscribe, Unsubscribe
from ...protocol.since import SinceSeqs

__all__ = ["no_broker", "outcome_of", "selects", "wanted"]


def wanted(request: Subscribe) -> Iterator[tuple[str | None, str, str, Fault | None]]:
    """Yield what a request means: broker, symbol, type, and why that cannot be served."""
    since = request.since
    if isinstance(since, SinceSeqs) and not request.symbols:
        for topic in since.seqs:
            yield *topic[:3], None
        for topic, why in since.faults.items():
            yield *topic[:3], Fault(408, why)
        return
    for symbol, symbol_fault in request.symbols.items():
        for kind, type_fault in request.types.items():
            if kind != HEARTBEAT:
                yield request.broker, symbol, kind, symbol_fault or type_fault


def selects(request: Unsubscribe, topic: Topic) -> bool:
    """Whether a request means a topic; a list that was given without one good name means none."""
    return (
        (not request.symbols or topic.symbol in request.symbols)
        and (not request.types or topic.type in request.types)
        and request.broker in (None, topic.broker)
        and (topic.type != "candle" or request.interval in (None, topic.variant))
    )


def outcome_of(
    topic: Topic,
    status: Literal["active", "pending", "error", "removed"],
    code: int | None = None,
    message: str | None = None,
) -> Outcome:
    """Return what became of a topic."""
    interval = topic.variant if topic.type == "candle" else None
    return Outcome(*topic[:3], status, code, message, interval)


def no_broker(feed: Feed, name: str | None, brokers: Mapping[str, SupervisedBroker]) -> Outcome:
    """Return why no broker, or not the named one, has a feed."""
    whys = []
    for broker in brokers.values():
        if name not in (None, broker.name):
            continue
        if broker.state == "failed":
            whys.append(f"{broker.name} has failed: {broker.last_error}")
        elif feed.type not in broker.plugin.types:
            whys.append(f"{broker.name} has {', '.join(broker.plugin.types)}")
        else:
            whys.append(f"{broker.name} has no such symbol")
    known = ", ".join(brokers) or "none"
    why = "; ".join(whys) or f"no such broker; there are: {known}"
    return Outcome(name, *feed[:2], "error", 408, f"no {feed.type} of {feed.symbol}: {why}")
