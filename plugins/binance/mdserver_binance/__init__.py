"""Binance spot market data: best bid/ask as ticks, executions as trades."""

from mdserver.plugin import BrokerPlugin

from .broker import BinanceBroker
from .config import BinanceConfig

__all__ = ["BinanceBroker", "BinanceConfig", "plugin"]

plugin = BrokerPlugin(
    name="binance",
    summary="Binance spot: best bid/ask and trades over WebSocket, no account needed",
    config=BinanceConfig,
    factory=BinanceBroker,
    types=("tick", "trade"),
    candles_from="trade",
)
