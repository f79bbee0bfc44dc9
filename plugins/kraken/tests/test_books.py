"""Books by checksum, without a venue."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from mdserver_kraken.books import BookKeeper, BookState
from mdserver_kraken.codec import BookChange, Level


def level(price: int, size: int) -> Level:
    return price / 10, size / 10**8, f"{price}{size}".encode() if size else f"{price}".encode()


def crc(bids: dict[int, int], asks: dict[int, int]) -> int:
    """The venue's rule on the venue's own book, sorted anew."""
    best_asks = sorted(asks.items())[:10]
    best_bids = sorted(bids.items(), reverse=True)[:10]
    return zlib.crc32("".join(f"{price}{size}" for price, size in best_asks + best_bids).encode())


def change(snapshot: bool, bids: dict[int, int], asks: dict[int, int], checksum: int) -> BookChange:
    sides = [[level(price, size) for price, size in side.items()] for side in (bids, asks)]
    return BookChange("BTCUSD", snapshot, sides[0], sides[1], checksum, None)


SIZES = st.sampled_from([0, 0, 1, 5100, 10**9])
UPDATES = st.lists(
    st.tuples(st.dictionaries(st.integers(1, 40), SIZES), st.dictionaries(st.integers(50, 90), SIZES)),
    max_size=10,
)


@given(updates=UPDATES)
def test_a_deep_enough_book_agrees_with_the_venue(
    updates: list[tuple[dict[int, int], dict[int, int]]],
) -> None:
    keeper, depth = BookKeeper(), 100
    bids, asks = {1: 7}, {99: 7}
    assert keeper.take(change(True, bids, asks, crc(bids, asks)), depth) is BookState.GOOD
    for new_bids, new_asks in updates:
        for side, new in ((bids, new_bids), (asks, new_asks)):
            side.update(new)
            for price in [price for price, size in side.items() if not size]:
                del side[price]
        assert keeper.take(change(False, new_bids, new_asks, crc(bids, asks)), depth) is BookState.GOOD
    assert {round(row[0] * 10) for row in keeper["BTCUSD"].top()[0]} == bids.keys()


def test_what_the_venue_pushed_out_is_cut_off() -> None:
    keeper, depth = BookKeeper(), 10
    bids = dict.fromkeys(range(1, 11), 5)
    keeper.take(change(True, bids, {99: 1}, crc(bids, {99: 1})), depth)
    bids = {11: 5} | bids
    assert keeper.take(change(False, {11: 5}, {}, crc(bids, {99: 1})), depth) is BookState.GOOD
    assert len(keeper["BTCUSD"].top()[0]) == 10
    del bids[11], bids[1]  # a level goes and none comes in its place: the one pushed out does not return
    assert keeper.take(change(False, {11: 0}, {}, crc(bids, {99: 1})), depth) is BookState.GOOD


def test_a_mismatch_drops_the_book_until_its_next_snapshot() -> None:
    keeper, depth = BookKeeper(), 10
    good = change(True, {1: 1}, {2: 1}, crc({1: 1}, {2: 1}))
    assert keeper.take(change(False, {1: 1}, {}, 1), depth) is BookState.UNUSABLE
    assert keeper.take(good, depth) is BookState.GOOD
    assert keeper.take(change(False, {1: 2}, {}, 1), depth) is BookState.BROKEN
    assert "BTCUSD" not in keeper
    assert keeper.mismatches("BTCUSD") == 1
    assert keeper.take(change(False, {1: 1}, {}, 1), depth) is BookState.UNUSABLE
    assert keeper.take(good, depth) is BookState.GOOD
    keeper.take(change(True, {1: 1}, {}, 1), depth)
    assert keeper.mismatches("BTCUSD") == 2
    for _ in range(100):
        assert keeper.take(good, depth) is BookState.GOOD
    assert keeper.mismatches("BTCUSD") == 0
