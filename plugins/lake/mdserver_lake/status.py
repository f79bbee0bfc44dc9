"""Status: what the lake holds, by series and month, and which days are missing in between. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import attrs

from mdserver.market_hours import market_of, open_hours
from mdserver.model import PushedDay

from .layout import DAY_US, Place, day_start_us, days_between
from .selection import size_text

__all__ = ["Month", "months_of", "status_lines"]


@attrs.frozen
class Month:
    """A month of a series. ``rows`` is None where the ledger does not know of each of its days."""

    broker: str
    symbol: str
    kind: str
    type: str
    month: str
    days: int
    rows: int | None
    size_bytes: int
    holes: tuple[str, ...]
    """Days without an object, between the first and the last of the series, on which the market was open."""

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return attrs.asdict(self)


def months_of(sizes: Mapping[Place, int], known: Mapping[Place, PushedDay]) -> list[Month]:
    """Return the months of what there is: places with their sizes, and what the ledger has of them."""
    by_series: dict[tuple[str, str, str, str], list[Place]] = defaultdict(list)
    for place in sizes:
        by_series[place.broker, place.symbol, place.kind, place.type].append(place)
    return [
        month
        for series, places in sorted(by_series.items())
        for month in _months(series, places, sizes, known)
    ]


def _months(
    series: tuple[str, str, str, str],
    places: Sequence[Place],
    sizes: Mapping[Place, int],
    known: Mapping[Place, PushedDay],
) -> Iterable[Month]:
    _, symbol, _, type_ = series
    there = {place.day for place in places}
    market = market_of(symbol, type_)
    by_month: dict[str, list[Place]] = defaultdict(list)
    holes: dict[str, list[str]] = defaultdict(list)
    for place in places:
        by_month[_month(place.day)].append(place)
    for day in days_between(min(there), max(there)):
        start_us = day_start_us(day)
        if day not in there and open_hours(market, start_us, start_us + DAY_US):
            holes[_month(day)].append(day.isoformat())
    for month in sorted({*by_month, *holes}):
        own = by_month.get(month, [])
        rows = [known[place].count if place in known else None for place in own]
        yield Month(
            *series,
            month,
            len(own),
            None if None in rows else sum(row for row in rows if row is not None),
            sum(sizes[place] for place in own),
            tuple(holes.get(month, ())),
        )


def _month(day: date) -> str:
    return f"{day:%Y-%m}"


def status_lines(months: Sequence[Month]) -> list[str]:
    """Return the months as a table."""
    heading = ("BROKER", "SYMBOL", "KIND", "MONTH", "DAYS", "ROWS", "SIZE", "HOLES")
    rows = [
        (
            month.broker,
            month.symbol,
            month.kind,
            month.month,
            str(month.days),
            "?" if month.rows is None else f"{month.rows:,}",
            size_text(month.size_bytes),
            _listed(month.holes),
        )
        for month in months
    ]
    widths = [max(len(row[n]) for row in (heading, *rows)) for n in range(len(heading))]
    lines = [
        "  ".join(
            cell.rjust(width) if 4 <= n <= 6 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heading, *rows)
    ]
    total = sum(month.size_bytes for month in months)
    holes = sum(len(month.holes) for month in months)
    return [*lines, f"{size_text(total)} in all; {holes:,} open days are missing in between"]


def _listed(days: Sequence[str]) -> str:
    return "-" if not days else days[0] if len(days) == 1 else f"{len(days)}: {days[0]} …"
