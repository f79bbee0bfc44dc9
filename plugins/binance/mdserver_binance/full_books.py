"""Full order books, built from a snapshot and the venue's numbered changes. No I/O.

A message has the changes from number ``first`` to ``last``. The snapshot is fetched separately and is older than the
stream when it arrives, so changes wait for it, and those that it includes already are left out. After that each message
must begin directly after the previous one. If it begins later, a change is missing and the book starts again from a new
snapshot. If it begins earlier, as after a change of connections, it repeats known changes.
"""

from __future__ import annotations

import enum
from collections import deque

from mdserver.model import Level, OrderBook
from mdserver.orderbook import Book

from .codec import DepthSnapshot, DepthUpdate

__all__ = ["FullBook", "Seeded"]

_MAX_WAITING = 6_000
"""Messages that wait for a snapshot: ten minutes of a busy book. With older ones lost, a snapshot has to be newer."""

_MAX_LEVELS = 5_000
"""Levels kept on a side, as many as the venue's deepest snapshot has; a record may have no more."""


class Seeded(enum.Enum):
    """What became of a snapshot."""

    GOOD = enum.auto()
    TOO_OLD = enum.auto()
    """The changes begin behind it: another one is needed."""


class FullBook:
    """One symbol's book. ``valid``: there was a snapshot, and nothing has been missing since."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.valid = False
        self._last = 0
        self._book: Book[Level] = Book(_MAX_LEVELS)
        self._waiting: deque[DepthUpdate] = deque(maxlen=_MAX_WAITING)

    def take(self, update: DepthUpdate) -> OrderBook | None:
        """Take a message; return the record to publish, if there is one.

        A book that was valid and is not any more has lost something: a snapshot is needed.
        """
        if self.valid:
            if update.first <= self._last + 1:
                return self._apply(update) if update.last > self._last else None
            self.begin_anew()
        self._waiting.append(update)
        return None

    def seed(self, snapshot: DepthSnapshot, time_us: int) -> tuple[Seeded, OrderBook | None]:
        """Take a snapshot, received at ``time_us``; return the whole book, as it is with all that waited."""
        if self.valid:
            return Seeded.GOOD, None
        newer = [update for update in self._waiting if update.last > snapshot.last]
        if newer and newer[0].first > snapshot.last + 1:
            return Seeded.TOO_OLD, None
        self._book.snapshot(snapshot.bids, snapshot.asks)
        self._last = snapshot.last
        for number, update in enumerate(newer):
            if update.first > self._last + 1:  # something is missing between two that waited
                self._waiting = deque(newer[number:], maxlen=_MAX_WAITING)
                return Seeded.TOO_OLD, None
            self._apply(update)
            time_us = update.time_us
        self.valid = True
        self._waiting.clear()
        bids, asks = self._book.top()
        return Seeded.GOOD, OrderBook(self.symbol, time_us, tuple(bids), tuple(asks), "snapshot", "full")

    def begin_anew(self) -> None:
        """Forget everything: something is missing."""
        self.valid = False
        self._waiting.clear()
        self._book.clear()

    def _apply(self, update: DepthUpdate) -> OrderBook:
        out_bids, out_asks = self._book.update(update.bids, update.asks)
        self._last = update.last
        bids = update.bids + tuple([(level[0], 0.0) for level in out_bids])
        asks = update.asks + tuple([(level[0], 0.0) for level in out_asks])
        return OrderBook(self.symbol, update.time_us, bids, asks, "update", "full")

    def top(self) -> tuple[list[Level], list[Level]]:
        """Return all levels, best first."""
        return self._book.top()
