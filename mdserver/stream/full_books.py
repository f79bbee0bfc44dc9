"""The full order books as they are now, put together from what was published: they stand for changes left out.

A book exists from its first snapshot on, as long as its broker is asked for it and no change is known to be missing.
"""

from __future__ import annotations

from ..model import Gap, Level, OrderBook, Published, Topic
from ..orderbook import Book

__all__ = ["FullBooks"]


class _Kept:
    """One book, and the record that it was brought up to.

    ``broken_off``: changes may be missing behind that record; the venue begins anew with a snapshot then.
    """

    __slots__ = ("book", "broken_off", "last", "whole")

    def __init__(self, last: Published) -> None:
        self.book: Book[Level] = Book()
        self.last = last
        self.broken_off = False
        self.whole: Published | None = None


class FullBooks:
    """The books by topic."""

    def __init__(self) -> None:
        self._books: dict[Topic, _Kept] = {}

    def take(self, published: Published) -> None:
        """Bring a book up to a record of it, or note a gap in it."""
        topic, record = published.topic, published.record
        kept = self._books.get(topic)
        if type(record) is Gap:
            if kept is not None:
                kept.broken_off = True
            return
        assert type(record) is OrderBook  # noqa: S101 - topics of full books have no others
        if record.action == "snapshot":
            kept = self._books[topic] = _Kept(published)
            kept.book.snapshot(record.bids, record.asks)
            kept.whole = published
        elif kept is not None:
            if kept.broken_off:
                del self._books[topic]
                return
            kept.book.update(record.bids, record.asks)
            kept.last, kept.whole = published, None

    def whole(self, topic: Topic) -> Published | None:
        """Return all levels of a book, with the number of the record that it was brought up to; None: not known."""
        kept = self._books.get(topic)
        if kept is None:
            return None
        if kept.whole is None:  # made once for all who ask before the next change
            bids, asks = kept.book.top()
            last = kept.last
            book = OrderBook(
                topic.symbol, last.record.time_us, tuple(bids), tuple(asks), "snapshot", topic.variant
            )
            kept.whole = Published(topic, last.seq, book, last.received_us)
        return kept.whole

    def topics(self) -> list[Topic]:
        """Return whose books are known."""
        return list(self._books)

    def drop(self, topic: Topic) -> None:
        """Forget a book: nobody gets it any more, so its broker does not send it."""
        self._books.pop(topic, None)
