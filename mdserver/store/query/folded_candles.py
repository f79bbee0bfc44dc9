"""Candles of any timeframe, folded from stored ones, with the closed part of what they are folded from in memory.

A block is a run of consecutive base candles of one series: stored ones, or bid or ask candles of a minute or an hour.
The block of a series is as it was as long as the series' ``hist_v`` is the same and no new record can fall into it. So
a caller brings the :class:`~mdserver.store.series.SeriesInfo` that it read before, and a block that was read later is
at worst newer than its version, which never comes again. What is not closed is read each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import attrs

from ...candles import Candles, fold_to
from ...model import US_PER_S
from ...timeframes import Timeframe
from ..series import SeriesInfo
from .bid_ask_candles import HOUR_S, MINUTE_S, Side
from .candle_arrays import NO_CANDLES, as_columns, joined, part
from .read_candles import CandleColumns

__all__ = ["CandleBlocks", "ReadBase", "base_of", "folded"]

BLOCK_CANDLES = 2_048
"""Base candles in a block: a day and a half of minutes, a quarter of hours, whether they exist or not."""

SIDE_BLOCK_S = 86_400
"""The block of bid and ask candles is a day: it is read as a whole, and the first time that is from the ticks."""

MOST_CANDLES = 500_000
"""Base candles in memory: 36 MB."""

ReadBase: TypeAlias = Callable[[int, int, int], Awaitable[Candles]]
"""Reads base candles: their length, and the first and the last open, all in seconds."""


class _Key(NamedTuple):
    series_id: int
    side: Side | None
    length_s: int
    block: int


def base_of(timeframe: Timeframe, side: Side | None) -> int:
    """Return the length in seconds of the base candles; bid and ask candles are kept by the minute and the hour."""
    if side is None:
        return timeframe.source_s
    return HOUR_S if timeframe.source_s % HOUR_S == 0 else MINUTE_S


def folded(blocks: Sequence[Candles], timeframe: Timeframe, from_s: int, to_s: int) -> CandleColumns:
    """Return the candles of a timeframe whose opens are in ``[from_s, to_s]``; the blocks hold all of their bases."""
    base = part(joined([NO_CANDLES, *blocks]), from_s, timeframe.end_of(to_s) - 1)
    return as_columns(part(fold_to(base, timeframe.opens_of(base.time)), from_s, to_s))


@attrs.define(eq=False)
class CandleBlocks:
    """The blocks in memory; the least recently used ones go first."""

    most_candles: int = MOST_CANDLES
    _known: OrderedDict[_Key, tuple[int, Candles]] = attrs.field(factory=OrderedDict)
    _candles: int = 0

    async def base(
        self,
        series: SeriesInfo,
        side: Side | None,
        length_s: int,
        from_s: int,
        to_s: int,
        read: ReadBase,
    ) -> list[Candles]:
        """Return the blocks that hold the base candles of ``[from_s, to_s]``, ascending, and perhaps some beyond.

        ``read`` is asked for those that are not in memory.
        """
        span_s = length_s * BLOCK_CANDLES if side is None else SIDE_BLOCK_S
        latest_s = -1 if series.latest_us is None else series.latest_us // US_PER_S
        closed = latest_s // length_s * length_s // span_s  # blocks before this one are closed
        first, last = from_s // span_s, to_s // span_s
        found: dict[int, Candles] = {}
        for block in range(first, min(last + 1, closed)):
            candles = self._get(_Key(series.id, side, length_s, block), series.hist_v)
            if candles is not None:
                found[block] = candles
        for begin, end in _missing(first, last, found):
            to_read = max(from_s, begin * span_s) if begin >= closed else begin * span_s
            until = to_s if end >= closed else (end + 1) * span_s - length_s
            candles = await read(length_s, to_read, until)
            for block in range(begin, end + 1):
                piece = part(candles, block * span_s, (block + 1) * span_s - 1)
                found[block] = piece
                if block < closed:
                    self._put(_Key(series.id, side, length_s, block), series.hist_v, piece)
        return [found[block] for block in sorted(found)]

    def _get(self, key: _Key, hist_v: int) -> Candles | None:
        known = self._known.get(key)
        if known is None or known[0] != hist_v:
            return None
        self._known.move_to_end(key)
        return known[1]

    def _put(self, key: _Key, hist_v: int, candles: Candles) -> None:
        replaced = self._known.pop(key, None)
        if replaced is not None:
            self._candles -= _weight(replaced[1])
        # a view would keep the whole of what was read
        self._known[key] = (hist_v, Candles._make(column.copy() for column in candles))
        self._candles += _weight(candles)
        while self._candles > self.most_candles:
            _, (_, gone) = self._known.popitem(last=False)
            self._candles -= _weight(gone)


def _weight(candles: Candles) -> int:
    """Return how many candles a block counts for: an empty one takes memory too."""
    return len(candles.time) + 16


def _missing(first: int, last: int, found: dict[int, Candles]) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks in ``[first, last]`` that are not found: (first, last)."""
    begin = None
    for block in range(first, last + 2):
        if block <= last and block not in found:
            begin = block if begin is None else begin
        elif begin is not None:
            yield begin, block - 1
            begin = None
