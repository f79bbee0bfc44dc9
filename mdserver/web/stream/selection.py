"""The topics that a request selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from ...feed.supervised_broker import SupervisedBroker
from ...kinds import BY_NAME, FULL_BOOK, default_variant
from ...model import Feed, Topic
from ...protocol.answers import Outcome
from ...protocol.encoding import Wire, encoding
from ...protocol.requests import HEARTBEAT, Fault, Subscribe, Unsubscribe
from ...protocol.since import SinceSeqs
from ...protocol.terms import Terms

__all__ = [
    "depth_of",
    "feed_of",
    "no_broker",
    "outcome_of",
    "selects",
    "terms_of",
    "topic_of",
    "wanted",
]


def wanted(request: Subscribe) -> Iterator[tuple[str | None, str, str, Fault | None]]:
    """Yield the parts of a request: broker, symbol, type, and the reason if it cannot be served."""
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


def selects(request: Unsubscribe, topic: Topic, terms: Terms) -> bool:
    """Return whether a request selects a topic; a list without any valid name selects none."""
    return (
        (not request.symbols or topic.symbol in request.symbols)
        and (not request.types or topic.type in request.types)
        and request.broker in (None, topic.broker)
        and (topic.type != "candle" or request.interval in (None, topic.variant))
        and (topic.type != "orderbook" or request.depth in (None, depth_of(topic, terms)))
    )


def feed_of(request: Subscribe, symbol: str, kind: str) -> Feed:
    """Return the feed that a request selects by a symbol and a type."""
    if kind == "candle":
        return Feed(symbol, kind, request.interval)
    return Feed(
        symbol,
        kind,
        FULL_BOOK if kind == "orderbook" and request.depth == FULL_BOOK else default_variant(kind),
    )


def terms_of(request: Subscribe, kind: str, wire: Wire, symbols: frozenset[str] | None) -> Terms:
    """Return the terms of a request for records of a type; ``symbols``: the symbols of a topic of all.

    Options that do not apply to the type are left out, so that clients with equal subscriptions share them.
    """
    levels = request.depth if kind == "orderbook" and isinstance(request.depth, int) else 0
    rate_ms = request.rate_ms if BY_NAME[kind].may_wait else 0
    return Terms(encoding(wire, received=request.received, levels=levels), rate_ms, request.keep_all, symbols)


def depth_of(topic: Topic, terms: Terms) -> int | str | None:
    """Return the depth of an order book as clients name it; None for other types."""
    if topic.type != "orderbook":
        return None
    return topic.variant if topic.variant == FULL_BOOK else terms.encoding.levels


def topic_of(outcome: Outcome) -> Topic:
    """Return the topic of a result."""
    variant = FULL_BOOK if outcome.depth == FULL_BOOK else default_variant(outcome.type)
    return Topic(outcome.broker or "", outcome.symbol, outcome.type, outcome.interval or variant)


def outcome_of(
    topic: Topic,
    terms: Terms,
    status: Literal["active", "pending", "error", "removed"],
    code: int | None = None,
    message: str | None = None,
) -> Outcome:
    """Return the outcome of a request for a topic."""
    interval = topic.variant if topic.type == "candle" else None
    return Outcome(*topic[:3], status, code, message, interval, depth=depth_of(topic, terms))


def no_broker(feed: Feed, name: str | None, brokers: Mapping[str, SupervisedBroker]) -> Outcome:
    """Return the error for a feed that no broker, or not the named one, has."""
    whys = []
    for broker in brokers.values():
        if name not in (None, broker.name):
            continue
        if broker.state == "failed":
            whys.append(f"{broker.name} has failed: {broker.last_error}")
        elif feed.type not in broker.plugin.types:
            whys.append(f"{broker.name} has {', '.join(broker.plugin.types)}")
        elif not broker.demand.serves(feed.symbol):
            whys.append(f"{broker.name} serves only the symbols that its config names")
        else:
            whys.append(f"{broker.name} has no such symbol")
    known = ", ".join(brokers) or "none"
    why = "; ".join(whys) or f"no such broker; there are: {known}"
    return Outcome(name, *feed[:2], "error", 408, f"no {feed.type} of {feed.symbol}: {why}")
