"""How times are written for clients: Unix seconds, milliseconds, microseconds, or ISO 8601. Pure.

Inside a time is an integer of microseconds. Nothing is rounded away: seconds and milliseconds have a fraction where the
time has one, and no ``.0`` where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from ..record_wire import seconds

__all__ = ["TIMES", "ShownTime", "Times", "iso", "microseconds", "milliseconds", "parse_times", "seconds"]

Times: TypeAlias = Literal["s", "ms", "us", "iso"]
"""The values of the parameter ``times``."""

ShownTime: TypeAlias = float | int | str
"""A time as a client sees it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(time_us: int) -> float:
    """Return a time in Unix milliseconds: exact to the microsecond."""
    return time_us // 1000 if time_us % 1000 == 0 else time_us / 1000


def microseconds(time_us: int) -> int:
    """Return a time in Unix microseconds."""
    return time_us


def iso(time_us: int) -> str:
    """Return a time as ``2024-03-20T07:00:00.123456Z``: UTC and always six digits, so that texts sort as times do."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}Z"


TIMES: Mapping[Times, Callable[[int], ShownTime]] = {
    "s": seconds,
    "ms": milliseconds,
    "us": microseconds,
    "iso": iso,
}
"""What writes a time given in microseconds, by the parameter's value."""


def parse_times(text: str) -> Times:
    """Return the value of the parameter ``times``. Raises ValueError that says what was expected."""
    for name in TIMES:
        if text == name:
            return name
    raise ValueError(f"expected one of {', '.join(TIMES)}")
