"""Binance spot market data: best bid/ask as ticks, executions as trades, order books."""

from mdserver.plugin import BrokerPlugin

from .broker import BinanceBroker
from .config import BinanceConfig

__all__ = ["BinanceBroker", "BinanceConfig", "plugin"]

plugin = BrokerPlugin(
    name="binance",
    summary="Binance spot: best bid/ask, trades and order books over WebSocket, no account needed",
    config=BinanceConfig,
    factory=BinanceBroker,
    types=("tick", "trade", "orderbook"),
    candles_from="trade",
)
