"""Growing pauses between attempts, with full jitter so that many waiting clients do not return at once. Pure."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """The pauses between attempts: ``first_s`` at first, doubled each time, at most ``most_s``.

    Each pause is drawn between half of ``first_s`` and its bound (full jitter with a floor).
    """

    __slots__ = ("_bound_s", "first_s", "most_s")

    def __init__(self, first_s: float, most_s: float) -> None:
        if not 0 <= first_s <= most_s:
            raise ValueError(f"first_s {first_s:g}, most_s {most_s:g}: expected 0 <= first_s <= most_s")
        self.first_s = first_s
        self.most_s = most_s
        self._bound_s = first_s

    def next_s(self, asked_s: float | None = None) -> float:
        """Return the next pause in seconds; at least ``asked_s``, if the other side requested that."""
        bound_s = self._bound_s
        self._bound_s = min(self.most_s, 2 * bound_s)
        pause_s = random.uniform(self.first_s / 2, bound_s)  # noqa: S311 - spreads attempts, guards nothing
        return max(pause_s, asked_s or 0.0)

    def reset(self) -> None:
        """Start again with ``first_s``: call it after a success."""
        self._bound_s = self.first_s
