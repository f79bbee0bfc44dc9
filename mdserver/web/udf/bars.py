"""``/udf/history``: bars in front of a time, by range or by number.

The client asks for bars that begin in ``[from, to)``; with ``countback`` for so many in front of ``to``, however far
back they lie. A bar of a day or more bears the date that its trading day ends on, midnight UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...model import US_PER_S
from ...timeframes import DAY_S, Timeframe
from ..api.chart import Chart, ChartReader
from ..api.encoding import without_fraction
from ..api.params import number_up_to, required, time_us
from ..api.problem import invalid_parameter
from ..api.read_context import Reading
from .resolution import timeframe_of
from .symbols import named

__all__ = ["MAX_BARS", "QUERY", "history_document", "shown_time", "udf_range_s"]

QUERY = ("symbol", "resolution", "from", "to", "countback")

MAX_BARS = 20_000
"""Bars in an answer: the newest ones of a longer range, so that the client asks for those before them."""

_RESOLUTION = "minutes, or 1D, 1W, 1M"
_NO_BARS = {"s": "no_data"}


async def history_document(query: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    """Return the bars, or ``no_data`` with the time of the last bar in front of the range."""
    asked = await named(query, reading)
    timeframe = timeframe_of(required(query, "resolution", _RESOLUTION), asked.instrument.align)
    countback = number_up_to(query, "countback", 10**9, 1) if "countback" in query else None
    first_s, end_s = udf_range_s(query, from_required=countback is None)
    reader = ChartReader(reading, asked.candidates, timeframe, None)
    bounds = await reader.bounds_s()
    if bounds is None:
        return _NO_BARS
    now_s = reading.services.now_us() // US_PER_S
    lowest_s, last_s = bounds[0], timeframe.open_of(end_s - 1) if end_s > 0 else -1
    if countback is not None:
        # one more, since the last bar may bear a later date than `to`
        chart, _, _ = await reader.read_some(lowest_s, last_s, min(countback, MAX_BARS) + 1, newest=True)
        found = _before(chart, timeframe, end_s, now_s)
        return _bars(found.part(max(0, len(found) - min(countback, MAX_BARS)), len(found)), timeframe)
    begin_s = max(lowest_s, timeframe.open_of(max(0, first_s - DAY_S)))
    chart, _, _ = await reader.read_some(begin_s, last_s, MAX_BARS + 2, newest=True)
    found = _before(chart, timeframe, end_s, now_s)
    inside = [place for place, time in enumerate(_shown(found, timeframe)) if time >= first_s]
    if inside:
        return _bars(found.part(max(inside[0], len(found) - MAX_BARS), len(found)), timeframe)
    earlier, _, _ = await reader.read_some(lowest_s, timeframe.open_of(max(0, first_s - 1)), 2, newest=True)
    before = [time for time in _shown(earlier, timeframe) if time < first_s]
    return {**_NO_BARS, "nextTime": before[-1]} if before else _NO_BARS


def udf_range_s(query: Mapping[str, str], *, from_required: bool = True) -> tuple[int, int]:
    """Return ``from`` and ``to`` in whole seconds. A chart that is scrolled far back asks from before 1970 on."""
    text = query.get("from", "0" if not from_required else None)
    text = required(query, "from") if text is None else text
    from_us = 0 if _is_negative(text) else time_us("from", text)
    to_us = 0 if _is_negative(required(query, "to")) else time_us("to", query["to"])
    if from_us > to_us and "from" in query and from_required:
        raise invalid_parameter("from", text, f"expected no later than to={query['to']}")
    return -(-from_us // US_PER_S), -(-to_us // US_PER_S)


def shown_time(open_s: int, timeframe: Timeframe) -> int:
    """Return the time that a bar bears."""
    return timeframe.trading_day(open_s) if timeframe.length_s >= DAY_S else open_s


def _is_negative(text: str) -> bool:
    return text.startswith("-") and text[1:].isascii() and text[1:].isdigit()


def _shown(chart: Chart, timeframe: Timeframe) -> list[int]:
    return [shown_time(time, timeframe) for time in chart.candles.time]


def _before(chart: Chart, timeframe: Timeframe, end_s: int, now_s: int) -> Chart:
    """Return the bars that bear a time in front of ``end_s``: all but at most the last.

    The forming bar stays if the chart asks up to now: in the evening of New York its date lies ahead.
    """
    times = _shown(chart, timeframe)
    if times and end_s < times[-1] and timeframe.end_of(chart.candles.time[-1]) > now_s:
        return chart
    return chart.part(0, sum(time < end_s for time in times))


def _bars(chart: Chart, timeframe: Timeframe) -> dict[str, Any]:
    if not len(chart):
        return _NO_BARS
    candles = chart.candles
    values = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    columns = dict(zip("ohlcv", map(without_fraction, values), strict=True))
    return {"s": "ok", "t": _shown(chart, timeframe), **columns}
