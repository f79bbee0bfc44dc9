"""``/udf/marks`` and ``/udf/timescale_marks``: recorded gaps, on the bar that each begins in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...model import US_PER_S, GapState
from ...store.store import GapRow
from ..api.guard import current_grant
from ..api.params import required
from ..api.read_context import Reading
from .bars import shown_time, udf_range_s
from .resolution import timeframe_of
from .symbols import named

__all__ = ["QUERY", "marks", "timescale_marks"]

QUERY = ("symbol", "from", "to", "resolution")
MAX_MARKS = 500

_COLORS: dict[GapState, str] = {"open": "red", "filled": "green", "permanent": "gray"}
_SAID: dict[GapState, str] = {
    "open": "records may be missing",
    "filled": "records were missing and have been filled in",
    "permanent": "records are missing for good",
}


async def marks(query: Mapping[str, str], reading: Reading) -> list[dict[str, Any]]:
    """Return a mark on a bar for each gap, the earliest first."""
    return [
        {
            "id": gap.id,
            "time": time,
            "color": _COLORS[gap.state],
            "text": _text(gap),
            "label": "G",
            "labelFontColor": "white",
            "minSize": 14,
        }
        for gap, time in await _gaps(query, reading)
    ]


async def timescale_marks(query: Mapping[str, str], reading: Reading) -> list[dict[str, Any]]:
    """Return a mark on the axis of time for each gap, the earliest first."""
    return [
        {
            "id": f"gap {gap.id}",
            "time": time,
            "color": _COLORS[gap.state],
            "label": "G",
            "tooltip": _text(gap).split("\n"),
        }
        for gap, time in await _gaps(query, reading)
    ]


async def _gaps(query: Mapping[str, str], reading: Reading) -> list[tuple[GapRow, int]]:
    asked = await named(query, reading)
    resolution = required(query, "resolution", "minutes, or 1D, 1W, 1M")
    timeframe = timeframe_of(resolution, asked.instrument.align)
    first_s, end_s = udf_range_s(query)
    found = []
    for series in asked.candidates:
        if not series.id or not current_grant().may_see(series.broker, series.symbol):
            continue
        found += await reading.store.gaps(
            first_s * US_PER_S, end_s * US_PER_S, series_id=series.id, limit=MAX_MARKS
        )
    found.sort(key=lambda gap: gap.from_us)
    return [
        (gap, shown_time(timeframe.open_of(gap.from_us // US_PER_S), timeframe)) for gap in found[:MAX_MARKS]
    ]


def _text(gap: GapRow) -> str:
    size = "" if gap.size is None else f" ({gap.size} of them)"
    return (
        f"{gap.broker}: {_SAID[gap.state]}{size}\n{_clock(gap.from_us)} to {_clock(gap.to_us)}\n{gap.cause}"
    )


def _clock(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / US_PER_S, UTC):%Y-%m-%d %H:%M:%S} UTC"
