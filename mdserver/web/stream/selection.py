"""Which topics a request means."""

from __future__ import annotations

from collections.abc import Iterator

from ...model import Topic
from ...protocol.requests import HEARTBEAT, Fault, Subscribe, Unsubscribe
from ...protocol.since import SinceSeqs

__all__ = ["selects", "wanted"]


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
