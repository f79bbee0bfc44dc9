"""What the operator can set for a mock broker."""

from __future__ import annotations

import math
from typing import Any

import attrs

__all__ = ["MAX_BURST", "MAX_RATE", "MockConfig"]

MAX_RATE = 100_000
"""Records per second."""

MAX_BURST = 10_000
"""Records per hand-over."""


def _number(low: float, high: float, hint: str = "") -> Any:
    """Make a validator: a finite number from ``low`` to ``high``; NaN and booleans are neither."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low <= value <= high):
            expected = f"a number from {low:g} to {high:g}{hint}"
            raise ValueError(f"{attribute.name}: found {value!r}, expected {expected}")

    return check


def _integer(low: int, high: int) -> Any:
    """Make a validator: an integer from ``low`` to ``high``."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            raise ValueError(f"{attribute.name}: found {value!r}, expected an integer from {low} to {high}")

    return check


@attrs.frozen
class MockConfig:
    """Settings of one mock broker.

    ``rate`` is in records per second over all wanted feeds together; 0 means as fast as the server takes
    them. ``burst`` is how many records are handed over at once. ``step_bps`` is the largest move from one
    record of a symbol to the next, in basis points of its first price.
    """

    seed: int = attrs.field(default=1, validator=_integer(0, 2**63 - 1))
    rate: float = attrs.field(default=20.0, validator=_number(0, MAX_RATE, " records/s (0: no limit)"))
    burst: int = attrs.field(default=1, validator=_integer(1, MAX_BURST))
    step_bps: float = attrs.field(default=0.2, validator=_number(0.001, 100, " basis points"))
