"""The mock broker: a deterministic random walk for any symbol."""

from __future__ import annotations

from mdserver.plugin import BrokerPlugin

from .broker import MockBroker
from .config import MockConfig

__all__ = ["MockBroker", "MockConfig", "plugin"]

plugin = BrokerPlugin(
    synthetic=True,
    name="mock",
    summary="Made-up prices for any symbol: a random walk that is the same for the same seed",
    config=MockConfig,
    factory=MockBroker,
    types=("tick", "trade"),
    candles_from="tick",
    silence_s=None,  # a slow rate is the operator's wish, not a fault
)
