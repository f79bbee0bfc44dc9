"""What a check found: how bad it is, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import attrs

__all__ = ["EXIT_CODES", "Finding", "State", "green", "red", "worst", "yellow"]

State: TypeAlias = Literal["green", "yellow", "red"]

EXIT_CODES: dict[State, int] = {"green": 0, "yellow": 1, "red": 2}


@attrs.frozen
class Finding:
    """One line of the report. ``remedy`` is None where nothing needs to be done."""

    check: str
    state: State
    text: str
    remedy: str | None = None


def green(check: str, text: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(check, "green", text)


def yellow(check: str, text: str, remedy: str) -> Finding:
    """Return a finding of something that works now and may not later."""
    return Finding(check, "yellow", text, remedy)


def red(check: str, text: str, remedy: str) -> Finding:
    """Return a finding of something that does not work, or that loses data."""
    return Finding(check, "red", text, remedy)


def worst(findings: Iterable[Finding]) -> State:
    """Return the worst state among findings."""
    return max((one.state for one in findings), key=EXIT_CODES.__getitem__, default="green")
