"""Choose the source that answers if none is named: one decision for candles, ticks, trades and their users. Pure.

Each bucket of time comes from the first source, in the order of the config, that has it complete; else from the first
one that has it at all. So an imported history and a live feed make one series.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeAlias

import attrs

from ...model import US_PER_S

__all__ = ["Buckets", "Chosen", "Cut", "EndOf", "Interval", "choose_buckets", "runs"]

EndOf: TypeAlias = Callable[[int], int]
"""Returns the end of the bucket with an open, both in Unix seconds."""

Interval: TypeAlias = tuple[int, int]
"""First and last microsecond of a gap."""


@attrs.frozen
class Buckets:
    """The buckets of one source: their opens in Unix seconds, ascending, and where records are known to be missing.

    ``earliest_us`` is the time of its first record. A bucket that opens before it and ends after it is cut. One that
    ends before it was complete when it was made: retention has dropped its records since. ``gaps`` are the recorded
    gaps, in any order.
    """

    times: Sequence[int]
    earliest_us: int | None
    gaps: Sequence[Interval] = ()


@attrs.frozen
class Chosen:
    """One bucket of the answer: its open, the index of its source, its index in the ``times`` of that source."""

    time: int
    source: int
    row: int


def choose_buckets(sources: Sequence[Buckets], length: int | EndOf) -> list[Chosen]:
    """Return the buckets that any source has, ascending, each once.

    ``length`` is that of a bucket in seconds, or returns the end of the bucket with an open, where they differ.
    """
    best: dict[int, Chosen] = {}
    complete: set[int] = set()
    for place, source in enumerate(sources):
        cut = Cut(source, length)
        for row, time in enumerate(source.times):
            if time in complete:
                continue
            if not cut.touches(time):
                complete.add(time)
                best[time] = Chosen(time, place, row)
            elif time not in best:
                best[time] = Chosen(time, place, row)
    return [best[time] for time in sorted(best)]


class Cut:
    """Knows which buckets of a source are not complete."""

    def __init__(self, source: Buckets, length: int | EndOf) -> None:
        self._end_of = length if callable(length) else lambda open_s: open_s + length
        self._earliest_us = source.earliest_us
        gaps = sorted(source.gaps)
        self._starts = [first for first, _ in gaps]
        self._ends = list(
            accumulate((last for _, last in gaps), max)
        )  # the latest end of all gaps up to this one

    def touches(self, time: int) -> bool:
        """Return whether the bucket with this open is cut by the start of the series, or a gap is in it."""
        first_us = time * US_PER_S
        end_us = self._end_of(time) * US_PER_S
        if self._earliest_us is not None and first_us < self._earliest_us < end_us:
            return True
        return self.in_gap(first_us, end_us)

    def in_gap(self, first_us: int, end_us: int) -> bool:
        """Return whether a recorded gap reaches into ``[first_us, end_us)``."""
        before_end = bisect_right(self._starts, end_us - 1)
        return before_end > 0 and self._ends[before_end - 1] >= first_us


def runs(chosen: Iterable[Chosen]) -> list[tuple[int, int, int]]:
    """Return the runs of buckets of the same source: (source, first open, last open)."""
    found: list[tuple[int, int, int]] = []
    for one in chosen:
        if found and found[-1][0] == one.source:
            found[-1] = (one.source, found[-1][1], one.time)
        else:
            found.append((one.source, one.time, one.time))
    return found
