"""``GET /api/metadata`` and ``GET /api/brokers``: what is stored, and the state of the brokers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from ...feed.broker_state import BrokerState
from ...model import TIMEFRAMES
from ...store.store import SeriesInfo
from .dependencies import SourceInfo
from .encoding import seconds
from .series_choice import real_ones

__all__ = ["all_symbols", "broker_list", "one_symbol"]


def one_symbol(symbol: str, stored: Iterable[SeriesInfo], order: Sequence[SourceInfo]) -> dict[str, Any]:
    """Return the metadata of a symbol, with its brokers in order of preference.

    Made-up records are counted for their own broker, but for the symbol only if there are no others.
    """
    rank = {info.name: place for place, info in enumerate(order)}
    ordered = sorted(stored, key=lambda series: (rank.get(series.broker, len(rank)), series.broker))
    brokers = [
        {"broker": broker, **_extent(list(group))}
        for broker, group in groupby(ordered, key=lambda series: series.broker)
    ]
    counted = real_ones(ordered, order)
    return {"symbol": symbol, **_extent(counted), "timeframes": list(TIMEFRAMES), "brokers": brokers}


def all_symbols(stored: Iterable[SeriesInfo], order: Sequence[SourceInfo]) -> dict[str, Any]:
    """Return the metadata of every symbol, by name."""
    ordered = sorted(stored, key=lambda series: series.symbol)
    symbols = [
        {"symbol": symbol, **_extent(real_ones(list(group), order))}
        for symbol, group in groupby(ordered, key=lambda series: series.symbol)
    ]
    return {"symbols": symbols, "timeframes": list(TIMEFRAMES)}


def broker_list(states: Iterable[BrokerState]) -> dict[str, Any]:
    """Return the state of each broker as the supervisor reports it."""
    return {
        "brokers": [
            {
                "broker": state.name,
                "plugin": state.plugin,
                "state": state.state,
                "since": state.since,
                "attempt": state.attempt,
                "last_error": state.last_error,
                "last_event": state.last_event,
                "feeds": state.feeds,
                "active": state.active,
                "refused": state.refused,
                "errors": [msgspec.to_builtins(error) for error in state.errors],
                "changes": [msgspec.to_builtins(change) for change in state.changes],
            }
            | ({} if state.bus is None else {"bus": msgspec.to_builtins(state.bus)})
            for state in states
        ]
    }


def _extent(group: Sequence[SeriesInfo]) -> dict[str, Any]:
    """Return the first and last time of all records, and the number of each type."""
    earliest = [series.earliest_us for series in group if series.earliest_us is not None]
    latest = [series.latest_us for series in group if series.latest_us is not None]
    return {
        "earliest": seconds([min(earliest)])[0] if earliest else None,
        "latest": seconds([max(latest)])[0] if latest else None,
        "tick_count": sum(series.row_count for series in group if series.type == "tick"),
        "trade_count": sum(series.row_count for series in group if series.type == "trade"),
    }
