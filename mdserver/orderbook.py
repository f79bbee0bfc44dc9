"""An order book by price level, for plugins: applies snapshots and updates, returns the best levels. Pure.

A level is a tuple of price, size and any further items of the plugin, such as the digits for a checksum, which are kept
and returned. The plugin itself follows the venue's rules for the order of messages and for missing ones.

Each side is a dict of levels and a sorted list of their prices. An insertion moves at most the tail of the list, 8
bytes per level; sorting the prices of a book of 1,000 levels for each update would take thirteen times as long.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Book"]

LevelT = TypeVar("LevelT", bound=tuple[Any, ...])


class Book(Generic[LevelT]):
    """Both sides of one instrument's book, best levels first.

    ``depth``: the number of levels on each side, None for all. A level that an update pushes beyond it is dropped and
    returned, because venues with books of a fixed depth send no message about it. ``checksum`` computes the venue's
    checksum. Prices must be finite numbers and are compared as numbers, so trailing zeros do not matter.
    """

    def __init__(
        self, depth: int | None = None, *, checksum: Callable[[Book[LevelT]], int] | None = None
    ) -> None:
        if depth is not None and depth < 1:
            raise ValueError(f"depth: {depth}; expected at least 1, or None for all levels")
        self.depth = depth
        self._checksum = checksum
        # Ranks ascend from the best level: the price for asks, its negative for bids.
        self._bids = _Side[LevelT](-1)
        self._asks = _Side[LevelT](1)

    def snapshot(self, bids: Iterable[LevelT], asks: Iterable[LevelT]) -> None:
        """Replace all levels by these, given in any order."""
        self.clear()
        self.update(bids, asks)

    def update(
        self, bids: Iterable[LevelT], asks: Iterable[LevelT]
    ) -> tuple[Sequence[LevelT], Sequence[LevelT]]:
        """Set the given levels, in their order; size 0 removes a level, and removing an absent one does nothing.

        Returns the bids and the asks pushed out beyond ``depth``, possibly levels of this update itself. Whoever
        follows the book by its changes must remove them too.
        """
        self._bids.set(bids)
        self._asks.set(asks)
        if self.depth is None:
            return (), ()
        return self._bids.truncate(self.depth), self._asks.truncate(self.depth)

    def clear(self) -> None:
        """Forget all levels."""
        self._bids.clear()
        self._asks.clear()

    @property
    def best_bid(self) -> LevelT | None:
        """The highest bid, None if there is none."""
        return self._bids.best()

    @property
    def best_ask(self) -> LevelT | None:
        """The lowest ask, None if there is none."""
        return self._asks.best()

    @property
    def crossed(self) -> bool:
        """Whether the best bid is not below the best ask: an update is missing, or the venue does not match orders."""
        bid, ask = self.best_bid, self.best_ask
        return bid is not None and ask is not None and bool(bid[0] >= ask[0])

    def top(self, n: int | None = None) -> tuple[list[LevelT], list[LevelT]]:
        """Return the ``n`` best bids and asks (None: all), best first."""
        return self._bids.top(n), self._asks.top(n)

    def checksum(self) -> int:
        """Return the venue's checksum of the current book. Raises RuntimeError if the venue has none."""
        if self._checksum is None:
            raise RuntimeError("this book was made without a checksum")
        return self._checksum(self)

    def __len__(self) -> int:
        """Return the number of levels, both sides together."""
        return len(self._bids.ranks) + len(self._asks.ranks)


class _Side(Generic[LevelT]):
    __slots__ = ("levels", "ranks", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.ranks: list[float] = []
        self.levels: dict[float, LevelT] = {}

    def set(self, changes: Iterable[LevelT]) -> None:
        levels, ranks, sign = self.levels, self.ranks, self.sign
        for level in changes:
            rank = sign * level[0]
            if not level[1]:
                if levels.pop(rank, None) is not None:
                    del ranks[bisect_left(ranks, rank)]
                continue
            if rank not in levels:
                insort(ranks, rank)
            levels[rank] = level

    def truncate(self, depth: int) -> Sequence[LevelT]:
        if len(self.ranks) <= depth:
            return ()
        out = [self.levels.pop(rank) for rank in self.ranks[depth:]]
        del self.ranks[depth:]
        return out

    def clear(self) -> None:
        self.ranks.clear()
        self.levels.clear()

    def best(self) -> LevelT | None:
        return self.levels[self.ranks[0]] if self.ranks else None

    def top(self, n: int | None) -> list[LevelT]:
        levels = self.levels
        return [levels[rank] for rank in self.ranks[:n]]
