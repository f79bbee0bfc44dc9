"""The newest prices of series: what the number of digits of an instrument's price is taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, LiteralString

import psycopg

from ..series import SeriesInfo
from .read_candles import utc_time

__all__ = ["newest_prices"]

_PRICES = 40
"""Records of a series that are looked at: one of ten ends in 0."""

_SPAN = timedelta(days=1)
"""How far behind the newest record they may lie, so that old partitions are not opened."""

_COLUMNS: Mapping[str, tuple[LiteralString, LiteralString]] = {
    "tick": ("ticks", "bid"),
    "trade": ("trades", "price"),
}

_NEWEST: LiteralString = """select one.id, array(
    select {price} from {table} where series_id = one.id and time between one.latest - %s and one.latest
    order by time desc limit %s)
from unnest(%s::int[], %s::timestamptz[]) as one(id, latest)"""


def newest_prices(conn: psycopg.Connection[Any], series: Sequence[SeriesInfo]) -> dict[int, list[float]]:
    """Return some of the newest prices of each series that has records, by its id. Blocking."""
    found: dict[int, list[float]] = {}
    for kind, (table, price) in _COLUMNS.items():
        chosen = [one for one in series if one.type == kind and one.latest_us is not None]
        if not chosen:
            continue
        statement = _NEWEST.replace("{price}", price).replace("{table}", table)
        times = [utc_time(-(-(one.latest_us or 0) // 1_000_000)) for one in chosen]
        rows = conn.execute(statement, [_SPAN, _PRICES, [one.id for one in chosen], times], binary=True)
        found |= dict(rows.fetchall())
    return found
