"""Dukascopy's tick history: the datafeed's bi5 files and the newer JSON API behind one interface."""

from mdserver.plugin import HistoryPlugin

from .config import DukascopyConfig
from .source import DukascopySource, open_source

__all__ = ["DukascopyConfig", "DukascopySource", "open_source", "plugin"]

plugin = HistoryPlugin(
    name="dukascopy",
    summary="Dukascopy: ticks of currencies, metals, indices, shares and crypto since 2003, no account needed",
    config=DukascopyConfig,
    factory=open_source,
    candles_from="tick",
)
