"""When an answer may be reused: ETags and Cache-Control.

An ETag is a digest of the body, so two ETags are equal exactly if the bodies are, also after a restart. To make that
cheap, digests are remembered by *version*: the store increments ``hist_v`` with each change to closed history and
``live_v`` with each live flush. So an answer with the same versions has the same body, and a 304 costs only the read of
the versions.

The versions are read before the rows. If a write comes in between, the newer body is remembered under the older
version, which never occurs again: the counters only increase.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import attrs

from ...model import US_PER_S
from ...store.store import SeriesInfo
from ...timeframes import Timeframe

__all__ = ["IMMUTABLE", "REVALIDATE", "Digest", "DigestMemory", "Span", "cache_control", "version_key"]

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"


@attrs.frozen
class Digest:
    """What is remembered of a body: its digest, its size, and the headers that were computed with it."""

    text: str
    size: int
    headers: Mapping[str, str] = attrs.field(factory=dict)


class DigestMemory:
    """The digests of recent answers by version key; the least recently used ones are dropped."""

    def __init__(self, most: int = 4_096) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, Digest] = OrderedDict()

    def get(self, key: Hashable) -> Digest | None:
        """Return the digest of the answer with this key, None if it is not remembered."""
        digest = self._known.get(key)
        if digest is not None:
            self._known.move_to_end(key)
        return digest

    def put(self, key: Hashable, digest: Digest) -> None:
        """Remember a digest."""
        self._known[key] = digest
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


@attrs.frozen
class Span:
    """The part of a series that an answer covers, in whole buckets.

    ``first_us`` and ``last_us`` are the opens of the first and the last bucket; the span is empty if ``first_us`` is
    the later one. ``bucket_us`` is the length of the shortest bucket; ``timeframe`` says where they begin if they are
    not simply multiples of it.
    """

    first_us: int
    last_us: int
    bucket_us: int
    timeframe: Timeframe | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no bucket opens in the range."""
        return self.first_us > self.last_us

    @property
    def buckets(self) -> int:
        """How many buckets open in the range; a few too many where they differ in length."""
        return max(0, (self.last_us - self.first_us) // self.bucket_us + 1)

    @property
    def end_us(self) -> int:
        """When the last bucket ends."""
        if self.timeframe is None:
            return self.last_us + self.bucket_us
        return self.timeframe.end_of(self.last_us // US_PER_S) * US_PER_S

    def open_of(self, time_us: int) -> int:
        """Return the open of the bucket that a time belongs to."""
        if self.timeframe is None:
            return time_us - time_us % self.bucket_us
        return self.timeframe.open_of(time_us // US_PER_S) * US_PER_S

    def is_closed(self, series: SeriesInfo) -> bool:
        """Whether the range ends before the forming bucket: then only ``hist_v`` shows changes."""
        if self.is_empty:
            return True
        latest_us = series.latest_us
        return latest_us is not None and self.last_us < self.open_of(latest_us)


def version_key(series: SeriesInfo, span: Span) -> tuple[Hashable, ...]:
    """Return a key that differs whenever the rows of ``span`` differ."""
    live_v = None if span.is_closed(series) else series.live_v
    return (series.id, *series.topic, series.hist_v, live_v, span)


def cache_control(
    series: Sequence[SeriesInfo], span: Span, *, now_us: int, flush_s: float, settle_s: float
) -> str:
    """Return the Cache-Control of an answer from these series, as far as it follows from their times.

    A range is immutable if it lies wholly within the stored data of one series and closed at least ``settle_s`` ago;
    the caller must check whether a hole in it may still be filled. An import may add data before and after the stored
    ones, so a range outside of them is always revalidated (which is cheap by the ETag). A range with a forming candle
    may be reused while that is fresh.
    """
    if not all(span.is_closed(one) for one in series):
        fresh_s = int(flush_s)
        return f"public, max-age={fresh_s}" if fresh_s else REVALIDATE
    earliest_us = series[0].earliest_us
    if len(series) > 1 or span.is_empty or earliest_us is None:
        return REVALIDATE
    within = span.first_us >= span.open_of(earliest_us)
    settled = span.end_us + int(settle_s * US_PER_S) <= now_us
    return IMMUTABLE if within and settled else REVALIDATE
