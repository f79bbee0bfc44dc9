"""TradingView's names of timeframes. Pure.

Minutes are numbers (``60`` is an hour), days, weeks and months are ``1D``, ``1W``, ``1M``, also without the 1.
"""

from __future__ import annotations

from ...timeframes import Align, Timeframe, parse_timeframe
from ..api.problem import invalid_parameter

__all__ = ["INTRADAY", "RESOLUTIONS", "timeframe_of"]

INTRADAY = ("1", "3", "5", "10", "15", "30", "45", "60", "90", "120", "180", "240", "360", "480", "720")
RESOLUTIONS = (*INTRADAY, "1D", "1W", "1M")

_LONG = {"D": "1d", "1D": "1d", "W": "1w", "1W": "1w", "M": "1M", "1M": "1M"}


def timeframe_of(text: str, align: Align) -> Timeframe:
    """Return the timeframe of a resolution. Raises :class:`Problem` for what is none."""
    name = _LONG.get(text) or (f"{text}m" if text.isascii() and text.isdigit() else "")
    try:
        return parse_timeframe(name, align)
    except ValueError:
        expected = f"expected minutes that divide a day, or 1D, 1W, 1M, such as {', '.join(RESOLUTIONS)}"
        raise invalid_parameter("resolution", text, expected) from None
