"""Kraken spot market data: best bid/ask as ticks, executions as trades, order books."""

from mdserver.plugin import BrokerPlugin

from .broker import KrakenBroker
from .config import KrakenConfig

__all__ = ["KrakenBroker", "KrakenConfig", "plugin"]

plugin = BrokerPlugin(
    name="kraken",
    summary="Kraken spot: best bid/ask, trades and order books over WebSocket, no account needed",
    config=KrakenConfig,
    factory=KrakenBroker,
    types=("tick", "trade", "orderbook"),
    candles_from="trade",
)
