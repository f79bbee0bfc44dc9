"""The order books of one connection, and whether each is valid. No I/O.

The venue numbers no messages, so only the checksum reveals a lost update. The book is then invalid until its next
snapshot, which looks like the first one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from mdserver import model
from mdserver.model import Feed, OrderBook
from mdserver.orderbook import Book

from .codec import BookChange, Level, book_checksum

__all__ = ["DEPTHS", "BookKeeper", "BookState", "carriers"]

DEPTHS = {"25": 25, "full": 1000}
"""The variants of order books, and the venue's depth that each is made from; it has none deeper than 1,000."""

_CALM = 100
"""After this many correct messages in a row an earlier mismatch is forgotten."""


class BookState(enum.Enum):
    """The effect of a message on its book."""

    GOOD = enum.auto()
    BROKEN = enum.auto()
    """The checksum differs: the book was dropped and must be subscribed again."""
    UNUSABLE = enum.auto()
    """An update without a snapshot: it was still in transit when the book was dropped."""


def carriers(wanted: Iterable[Feed]) -> dict[Feed, Feed]:
    """Return the feeds that need no subscription of their own because another includes them: the best 25 of a full
    book.

    The venue's messages do not have the depth, so a connection can have only one book of a symbol at a time.
    """
    full = {feed.symbol: feed for feed in wanted if feed[1:] == ("orderbook", "full")}
    return {
        feed: full[feed.symbol] for feed in wanted if feed[1:] == ("orderbook", "25") and feed.symbol in full
    }


class BookKeeper:
    """Books by canonical symbol, cut to their depth: the venue never removes what is pushed out of them."""

    def __init__(self) -> None:
        self._pushed_out: tuple[Sequence[Level], Sequence[Level]] = ((), ())
        self._books: dict[str, Book[Level]] = {}
        self._mismatches: dict[str, int] = {}
        self._good: dict[str, int] = {}

    def __getitem__(self, symbol: str) -> Book[Level]:
        """Return a symbol's book as it is now. Raises KeyError where there is no valid one."""
        return self._books[symbol]

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._books

    def best(self, symbol: str, time_us: int) -> OrderBook:
        """Return the best levels as a record that stands for itself. Raises KeyError where there is no valid book."""
        bids, asks = self._books[symbol].top(DEPTHS["25"])
        return OrderBook(symbol, time_us, _plain(bids), _plain(asks), depth="25")

    def full(self, change: BookChange, time_us: int) -> OrderBook:
        """Return the message that was taken last as a record of the full book: all levels, or those that changed."""
        symbol = change.symbol
        if change.snapshot:
            bids, asks = self._books[symbol].top()
            return OrderBook(symbol, time_us, _plain(bids), _plain(asks), "snapshot", "full")
        out_bids, out_asks = self._pushed_out
        bid_changes = _plain(change.bids) + tuple([(level[0], 0.0) for level in out_bids])
        ask_changes = _plain(change.asks) + tuple([(level[0], 0.0) for level in out_asks])
        return OrderBook(symbol, time_us, bid_changes, ask_changes, "update", "full")

    def mismatches(self, symbol: str) -> int:
        """Return how often a symbol's book broke lately."""
        return self._mismatches.get(symbol, 0)

    def drop(self, symbol: str) -> None:
        """Forget a book, valid or not."""
        self._books.pop(symbol, None)

    def take(self, change: BookChange, depth: int) -> BookState:
        """Take a message of the venue; a book that begins with it has ``depth`` levels."""
        symbol = change.symbol
        book = self._books.get(symbol)
        if change.snapshot:
            if book is None:
                book = self._books[symbol] = Book(depth, checksum=book_checksum)
            book.snapshot(change.bids, change.asks)
        elif book is None:
            return BookState.UNUSABLE
        else:
            self._pushed_out = book.update(change.bids, change.asks)
        if book.checksum() != change.checksum:
            self.drop(symbol)
            self._good[symbol] = 0
            self._mismatches[symbol] = self.mismatches(symbol) + 1
            return BookState.BROKEN
        good = self._good[symbol] = self._good.get(symbol, 0) + 1
        if good == _CALM:
            self._mismatches.pop(symbol, None)
        return BookState.GOOD


def _plain(levels: Sequence[Level]) -> tuple[model.Level, ...]:
    return tuple([level[:2] for level in levels])
