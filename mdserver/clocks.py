"""How far two clocks are apart, as far as one request can tell. Pure."""

from __future__ import annotations

__all__ = ["least_ahead_s"]


def least_ahead_s(before_s: float, theirs_s: float, after_s: float) -> float:
    """Return how far our clock is ahead of theirs at least; negative: behind.

    Theirs was read between ``before_s`` and ``after_s`` of ours. Any time in between may be the right one, so a slow
    answer is no difference: then 0.
    """
    if theirs_s < before_s:
        return before_s - theirs_s
    return min(0.0, after_s - theirs_s)
