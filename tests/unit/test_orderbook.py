"""The book by price level, against one that is sorted anew each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.orderbook import Book

Level = tuple[float, float, str]

PRICES = st.integers(1, 40).map(lambda n: n / 10)
SIZES = st.sampled_from([0.0, 0.0, 1.0, 2.5])
LEVELS = st.lists(st.tuples(PRICES, SIZES, st.sampled_from("ab")), max_size=12)
MESSAGES = st.lists(st.tuples(st.booleans(), LEVELS, LEVELS), max_size=12)


class Naive:
    """What a book means, without any thought of speed."""

    def __init__(self, depth: int | None) -> None:
        self.depth = depth
        self.bids: dict[float, Level] = {}
        self.asks: dict[float, Level] = {}

    def take(self, snapshot: bool, bids: list[Level], asks: list[Level]) -> tuple[list[Level], list[Level]]:
        """Return what did not fit."""
        if snapshot:
            self.bids, self.asks = {}, {}
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            side.update({level[0]: level for level in levels})
        self.bids, lost_bids = self._kept(self.bids, reverse=True)
        self.asks, lost_asks = self._kept(self.asks, reverse=False)
        return lost_bids, lost_asks

    def _kept(self, side: dict[float, Level], *, reverse: bool) -> tuple[dict[float, Level], list[Level]]:
        prices = sorted((price for price, level in side.items() if level[1]), reverse=reverse)
        depth = len(prices) if self.depth is None else self.depth
        return {price: side[price] for price in prices[:depth]}, [side[price] for price in prices[depth:]]


@given(depth=st.sampled_from([None, 1, 3, 10]), messages=MESSAGES)
def test_it_is_what_the_messages_say(
    depth: int | None, messages: list[tuple[bool, list[Level], list[Level]]]
) -> None:
    book: Book[Level] = Book(depth)
    naive = Naive(depth)
    for snapshot, bids, asks in messages:
        out = (book.snapshot if snapshot else book.update)(bids, asks)
        lost = naive.take(snapshot, bids, asks)
        if out is not None:
            assert tuple(map(list, out)) == lost
        want_bids, want_asks = list(naive.bids.values()), list(naive.asks.values())
        assert book.top() == (want_bids, want_asks)
        for n in (0, 1, 5, 100):
            assert book.top(n) == (want_bids[:n], want_asks[:n])
        assert book.best_bid == (want_bids[0] if want_bids else None)
        assert book.best_ask == (want_asks[0] if want_asks else None)
        assert len(book) == len(want_bids) + len(want_asks)
        both = bool(want_bids and want_asks)
        assert book.crossed == (both and want_bids[0][0] >= want_asks[0][0])


@given(bids=LEVELS, asks=LEVELS)
def test_the_order_within_a_snapshot_does_not_matter(bids: list[Level], asks: list[Level]) -> None:
    bids = list({level[0]: level for level in bids}.values())
    asks = list({level[0]: level for level in asks}.values())
    one: Book[Level] = Book()
    other: Book[Level] = Book()
    one.snapshot(bids, asks)
    other.snapshot(reversed(bids), reversed(asks))
    assert one.top() == other.top()


def test_a_price_is_one_level_however_its_text_ended() -> None:
    book: Book[tuple[float, float]] = Book()
    book.update([(float("1.10"), 1.0)], [])
    book.update([(float("1.1"), 2.0)], [])
    assert book.top() == ([(1.1, 2.0)], [])


def test_clear_leaves_nothing() -> None:
    book: Book[tuple[float, float]] = Book(5)
    book.snapshot([(1.0, 1.0)], [(2.0, 1.0)])
    book.clear()
    assert (book.top(), book.best_bid, book.best_ask, book.crossed) == (([], []), None, None, False)


def test_the_plugin_supplies_the_checksum() -> None:
    book: Book[tuple[float, float]] = Book(2, checksum=lambda book: sum(map(len, book.top(1))))
    assert book.checksum() == 0
    book.snapshot([(1.0, 1.0), (0.9, 1.0), (0.8, 1.0)], [(2.0, 1.0)])
    assert book.checksum() == 2
    with pytest.raises(RuntimeError, match="without a checksum"):
        Book[tuple[float, float]]().checksum()


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="depth: 0; expected at least 1"):
        Book[tuple[float, float]](0)
