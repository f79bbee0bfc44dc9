"""``GET /api/metadata`` and ``GET /api/brokers``: what is stored, and the state of the brokers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Struct

from ...feed.broker_state import BrokerState
from ...model import TIMEFRAMES, US_PER_S
from ...protocol.times import TIMES, ShownTime, Times
from ...store.store import SeriesInfo
from .dependencies import SourceInfo
from .series_choice import real_ones

__all__ = ["all_symbols", "broker_list", "one_symbol"]


def one_symbol(
    symbol: str, stored: Iterable[SeriesInfo], order: Sequence[SourceInfo], times: Times
) -> dict[str, Any]:
    """Return the metadata of a symbol, with its brokers in order of preference.

    Made-up records are counted for their own broker, but for the symbol only if there are no others.
    """
    rank = {info.name: place for place, info in enumerate(order)}
    ordered = sorted(stored, key=lambda series: (rank.get(series.broker, len(rank)), series.broker))
    brokers = [
        {"broker": broker, **_extent(list(group), times)}
        for broker, group in groupby(ordered, key=lambda series: series.broker)
    ]
    counted = real_ones(ordered, order)
    return {"symbol": symbol, **_extent(counted, times), "timeframes": list(TIMEFRAMES), "brokers": brokers}


def all_symbols(stored: Iterable[SeriesInfo], order: Sequence[SourceInfo], times: Times) -> dict[str, Any]:
    """Return the metadata of every symbol, by name."""
    ordered = sorted(stored, key=lambda series: series.symbol)
    symbols = [
        {"symbol": symbol, **_extent(real_ones(list(group), order), times)}
        for symbol, group in groupby(ordered, key=lambda series: series.symbol)
    ]
    return {"symbols": symbols, "timeframes": list(TIMEFRAMES)}


def broker_list(states: Iterable[BrokerState], times: Times = "s") -> dict[str, Any]:
    """Return the state of each broker as the supervisor reports it."""

    def show(time_s: float) -> ShownTime:
        return time_s if times == "s" else TIMES[times](round(time_s * US_PER_S))

    def shown(happened: Struct) -> dict[str, Any]:
        values = msgspec.to_builtins(happened)
        return {**values, "time": show(values["time"])}

    return {
        "brokers": [
            {
                "broker": state.name,
                "plugin": state.plugin,
                "state": state.state,
                "since": show(state.since),
                "attempt": state.attempt,
                "last_error": state.last_error,
                "last_event": None if state.last_event is None else show(state.last_event),
                "feeds": state.feeds,
                "active": state.active,
                "refused": state.refused,
                "errors": list(map(shown, state.errors)),
                "changes": list(map(shown, state.changes)),
            }
            | ({} if state.bus is None else {"bus": msgspec.to_builtins(state.bus)})
            for state in states
        ]
    }


def _extent(group: Sequence[SeriesInfo], times: Times) -> dict[str, Any]:
    """Return the first and last time of all records, and the number of each type."""
    show = TIMES[times]
    earliest = [series.earliest_us for series in group if series.earliest_us is not None]
    latest = [series.latest_us for series in group if series.latest_us is not None]
    return {
        "earliest": show(min(earliest)) if earliest else None,
        "latest": show(max(latest)) if latest else None,
        "tick_count": sum(series.row_count for series in group if series.type == "tick"),
        "trade_count": sum(series.row_count for series in group if series.type == "trade"),
    }
