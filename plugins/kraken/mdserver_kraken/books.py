"""The order books of one connection: what is valid, what is not, and why. No I/O.

The venue numbers nothing, so a lost update shows only in the checksum. From then on a book is worth nothing until its
next snapshot, which looks like the first one.
"""

from __future__ import annotations

import enum

from mdserver.model import OrderBook
from mdserver.orderbook import Book

from .codec import BookChange, Level, book_checksum

__all__ = ["BookKeeper", "BookState"]

_CALM = 100
"""So many good messages in a row make a mismatch before them forgotten."""


class BookState(enum.Enum):
    """What a message did to its book."""

    GOOD = enum.auto()
    BROKEN = enum.auto()
    """Its checksum differs: the book is dropped, and has to be asked for anew."""
    UNUSABLE = enum.auto()
    """An update without a snapshot before it: what was still on its way when a book was dropped."""


class BookKeeper:
    """Books by canonical symbol, cut to ``depth`` levels: the venue never removes what is pushed out of them."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._books: dict[str, Book[Level]] = {}
        self._mismatches: dict[str, int] = {}
        self._good: dict[str, int] = {}

    def __getitem__(self, symbol: str) -> Book[Level]:
        """Return a symbol's book as it is now. Raises KeyError where there is no valid one."""
        return self._books[symbol]

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._books

    def record(self, symbol: str, time_us: int) -> OrderBook:
        """Return a symbol's book as a record that stands for itself. Raises KeyError where there is no valid one."""
        bids, asks = self._books[symbol].top()
        return OrderBook(
            symbol, time_us, tuple([level[:2] for level in bids]), tuple([level[:2] for level in asks])
        )

    def mismatches(self, symbol: str) -> int:
        """Return how often a symbol's book broke lately."""
        return self._mismatches.get(symbol, 0)

    def drop(self, symbol: str) -> None:
        """Forget a book, valid or not."""
        self._books.pop(symbol, None)

    def take(self, change: BookChange) -> BookState:
        """Take a message of the venue."""
        symbol = change.symbol
        book = self._books.get(symbol)
        if change.snapshot:
            if book is None:
                book = self._books[symbol] = Book(self._depth, checksum=book_checksum)
            book.snapshot(change.bids, change.asks)
        elif book is None:
            return BookState.UNUSABLE
        else:
            book.update(change.bids, change.asks)
        if book.checksum() != change.checksum:
            self.drop(symbol)
            self._good[symbol] = 0
            self._mismatches[symbol] = self.mismatches(symbol) + 1
            return BookState.BROKEN
        good = self._good[symbol] = self._good.get(symbol, 0) + 1
        if good == _CALM:
            self._mismatches.pop(symbol, None)
        return BookState.GOOD
