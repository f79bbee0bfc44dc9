"""The present full order books, built from the published records; a whole book replaces changes that were left out.

A book exists from its first snapshot on, as long as its broker sends it and no change is missing. It outlives the last
subscriber here: the venue sends no other snapshot to whoever subscribes before the broker has noticed.
"""

from __future__ import annotations

from ..model import Gap, Level, OrderBook, Published, Topic
from ..orderbook import Book

__all__ = ["FullBooks"]


class _Kept:
    """One book, and the last record that was applied to it.

    ``broken_off``: changes may be missing after that record; the venue will then send a new snapshot.
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
        """Apply a record to its book, or take note of a gap in it."""
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
        """Return all levels of a book, with the number of the last applied record, or None if they are not known."""
        kept = self._books.get(topic)
        if kept is None:
            return None
        if kept.whole is None:  # made once for all requests before the next change
            bids, asks = kept.book.top()
            last = kept.last
            book = OrderBook(
                topic.symbol, last.record.time_us, tuple(bids), tuple(asks), "snapshot", topic.variant
            )
            kept.whole = Published(topic, last.seq, book, last.received_us)
        return kept.whole

    def topics(self) -> list[Topic]:
        """Return the topics with a known book."""
        return list(self._books)

    def drop_broken(self, topic: Topic) -> None:
        """Forget a book if changes of it are missing; called when it has no subscribers here."""
        kept = self._books.get(topic)
        if kept is not None and kept.broken_off:
            del self._books[topic]
