"""OANDA v20: best bid/ask of currencies, metals and CFDs as ticks."""

from mdserver.plugin import BrokerPlugin

from .broker import OandaBroker
from .config import OandaConfig

__all__ = ["OandaBroker", "OandaConfig", "plugin"]

plugin = BrokerPlugin(
    name="oanda",
    summary="OANDA v20: best bid/ask of currencies, metals and CFDs; needs an account, a practice one will do",
    config=OandaConfig,
    factory=OandaBroker,
    types=("tick",),
    candles_from="tick",
    silence_s=60.0,
)
