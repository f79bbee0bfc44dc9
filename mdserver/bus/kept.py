"""What lies on a stream, in parts, and before which entry it has to be cut: bounded by time and by bytes. Pure."""

from __future__ import annotations

from collections import deque

import attrs

from .engine import Position

__all__ = ["ENTRY_BYTES", "Kept"]

PARTS = 64
"""A stream is cut by so many parts of what it may hold, so at least 63 of 64 of that stay."""

ENTRY_BYTES = 24
"""What an engine needs for an entry besides its frame, about."""


@attrs.define
class _Part:
    first: Position
    since_s: float
    bytes: int


class Kept:
    """What the leader of a broker knows of its stream. Times are seconds of one clock that never goes back."""

    def __init__(self, *, keep_s: float, keep_bytes: int) -> None:
        self.bytes = 0
        """About what the stream needs."""
        self.is_short = False
        """Whether the last cut was for the sake of the bytes, before the time was over."""
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._parts: deque[_Part] = deque()

    def add(self, first: Position, size: int, now_s: float) -> None:
        """Note entries that were appended from ``first`` on, and what they need."""
        last = self._parts[-1] if self._parts else None
        if (
            last is None
            or last.bytes >= self._keep_bytes / PARTS
            or now_s - last.since_s >= self._keep_s / PARTS
        ):
            last = _Part(first, now_s, 0)
            self._parts.append(last)
        last.bytes += size
        self.bytes += size

    def cut(self, now_s: float) -> Position | None:
        """Return the entry before which the stream is to be cut now; None: nowhere."""
        parts, old_s, is_cut = self._parts, now_s - self._keep_s, False
        while len(parts) > 1 and (self.bytes > self._keep_bytes or parts[1].since_s <= old_s):
            self.is_short = parts[1].since_s > old_s
            self.bytes -= parts.popleft().bytes
            is_cut = True
        return parts[0].first if is_cut else None
