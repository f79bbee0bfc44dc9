"""``/udf/marks`` and ``/udf/timescale_marks``: recorded gaps, on the bar that each begins in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from ...model import US_PER_S, GapState
from ...store.store import GapRow, LastingGap
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
            "id": mark.id,
            "time": mark.time,
            "color": mark.color,
            "text": mark.text,
            "label": "G",
            "labelFontColor": "white",
            "minSize": 14,
        }
        for mark in await _marks(query, reading)
    ]


async def timescale_marks(query: Mapping[str, str], reading: Reading) -> list[dict[str, Any]]:
    """Return a mark on the axis of time for each gap, the earliest first."""
    return [
        {
            "id": f"gap {mark.id}",
            "time": mark.time,
            "color": mark.color,
            "label": "G",
            "tooltip": mark.text.split("\n"),
        }
        for mark in await _marks(query, reading)
    ]


@attrs.frozen
class _Mark:
    """A gap as both kinds of marks show it; the number of one that lasts is its series' with a minus."""

    id: int
    time: int
    color: str
    text: str


async def _marks(query: Mapping[str, str], reading: Reading) -> list[_Mark]:
    asked = await named(query, reading)
    resolution = required(query, "resolution", "minutes, or 1D, 1W, 1M")
    timeframe = timeframe_of(resolution, asked.instrument.align)
    first_s, end_s = udf_range_s(query)
    found: list[tuple[int, GapRow | LastingGap]] = []
    for series in asked.candidates:
        if not series.id or not current_grant().may_see(series.broker, series.symbol):
            continue
        ended = await reading.store.gaps(
            first_s * US_PER_S, end_s * US_PER_S, series_id=series.id, limit=MAX_MARKS
        )
        lasting = await reading.store.lasting_gaps(
            end_s * US_PER_S, symbol=series.symbol, broker=series.broker, limit=MAX_MARKS
        )
        found += [(gap.id, gap) for gap in ended]
        found += [(-series.id, gap) for gap in lasting if gap.type == series.type]
    found.sort(key=lambda one: one[1].from_us)
    return [
        _Mark(
            number,
            shown_time(timeframe.open_of(gap.from_us // US_PER_S), timeframe),
            _COLORS[_state(gap)],
            _text(gap),
        )
        for number, gap in found[:MAX_MARKS]
    ]


def _state(gap: GapRow | LastingGap) -> GapState:
    return gap.state if isinstance(gap, GapRow) else "open"


def _text(gap: GapRow | LastingGap) -> str:
    size = "" if gap.size is None else f" ({gap.size} of them)"
    end = f"to {_clock(gap.to_us)}" if isinstance(gap, GapRow) else "until now"
    return f"{gap.broker}: {_SAID[_state(gap)]}{size}\n{_clock(gap.from_us)} {end}\n{gap.cause}"


def _clock(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / US_PER_S, UTC):%Y-%m-%d %H:%M:%S} UTC"
