"""Order books: the rule of numbers by hand, and over real sockets against the fake venue's own books."""

from collections.abc import Awaitable, Callable, Iterable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import Feed, OrderBook
from mdserver.plugin import BookRenewal
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker
from mdserver_binance.broker import Timing
from mdserver_binance.codec import DepthSnapshot, DepthUpdate
from mdserver_binance.full_books import FullBook, Seeded

Start = Callable[..., Awaitable[BinanceBroker]]

BOOK, FULL = Feed("BTCUSDT", "orderbook", "25"), Feed("BTCUSDT", "orderbook", "full")
STREAM = "btcusdt@depth@100ms"


def update(
    first: int, last: int, bids: dict[float, float], asks: dict[float, float] | None = None
) -> DepthUpdate:
    return DepthUpdate("BTCUSDT", last * 10, first, last, tuple(bids.items()), tuple((asks or {}).items()))


SNAPSHOT = DepthSnapshot(100, ((10.0, 1.0), (9.0, 1.0)), ((11.0, 1.0),))


def test_what_the_snapshot_holds_already_is_left_out() -> None:
    book = FullBook("BTCUSDT")
    for one in (update(95, 98, {1.0: 1.0}), update(99, 102, {9.0: 0.0}), update(103, 103, {8.0: 2.0})):
        assert book.take(one) is None
    seeded, record = book.seed(SNAPSHOT, 5)
    assert seeded is Seeded.GOOD
    assert record == OrderBook("BTCUSDT", 1030, ((10.0, 1.0), (8.0, 2.0)), ((11.0, 1.0),), "snapshot", "full")
    assert book.valid


@pytest.mark.parametrize(("first", "good"), [(100, True), (101, True), (102, False)])
def test_the_first_change_has_to_join_the_snapshot(first: int, good: bool) -> None:
    book = FullBook("BTCUSDT")
    book.take(update(first, 105, {}))
    assert (book.seed(SNAPSHOT, 5)[0] is Seeded.GOOD) is good
    assert book.valid is good


def test_a_snapshot_with_nothing_behind_it_has_the_time_of_its_receipt() -> None:
    book = FullBook("BTCUSDT")
    _, record = book.seed(SNAPSHOT, 5)
    assert record is not None
    assert record.time_us == 5
    assert book.seed(SNAPSHOT, 6) == (Seeded.GOOD, None)  # one is enough


def test_a_hole_between_two_that_waited_needs_a_newer_snapshot() -> None:
    book = FullBook("BTCUSDT")
    book.take(update(101, 101, {}))
    book.take(update(105, 106, {7.0: 1.0}))
    assert book.seed(SNAPSHOT, 5)[0] is Seeded.TOO_OLD
    assert book.seed(DepthSnapshot(104, (), ()), 5)[0] is Seeded.GOOD
    assert book.top()[0] == [(7.0, 1.0)]


def test_a_jump_makes_a_book_worthless_and_a_repeat_does_nothing() -> None:
    book = FullBook("BTCUSDT")
    book.seed(SNAPSHOT, 5)
    assert book.take(update(99, 100, {10.0: 0.0})) is None
    assert book.valid
    joined = book.take(update(100, 103, {10.0: 5.0}))
    assert joined == OrderBook("BTCUSDT", 1030, ((10.0, 5.0),), (), "update", "full")
    assert book.take(update(105, 106, {})) is None
    assert not book.valid
    assert book.top() == ([], [])
    # The message that jumped is the first one of the new beginning.
    assert book.seed(DepthSnapshot(104, (), ()), 5)[0] is Seeded.GOOD


def test_what_falls_out_of_the_depth_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver_binance.full_books._MAX_LEVELS", 2)
    book = FullBook("BTCUSDT")
    book.seed(SNAPSHOT, 5)
    record = book.take(update(101, 101, {10.5: 3.0}))
    assert record is not None
    assert record.bids == ((10.5, 3.0), (9.0, 0.0))


LEVELS = st.dictionaries(st.integers(1, 30).map(float), st.sampled_from([0.0, 1.0, 2.5]), max_size=4)
CHANGES = st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=12)


@given(changes=CHANGES, asked=st.integers(0, 11), repeats=st.integers(0, 3))
def test_whenever_the_snapshot_was_made_the_book_is_the_venues(
    changes: list[tuple[dict[float, float], dict[float, float]]], asked: int, repeats: int
) -> None:
    """Also when messages overlap, as after a change of connections."""
    venue: tuple[dict[float, float], dict[float, float]] = ({}, {})
    asked = min(asked, len(changes) - 1)
    book, snapshot = FullBook("BTCUSDT"), DepthSnapshot(0, (), ())
    for number, (bids, asks) in enumerate(changes, 1):
        for side, levels in zip(venue, (bids, asks), strict=True):
            side.update(levels)
            for price in [price for price, size in side.items() if not size]:
                del side[price]
        message = update(number, number, bids, {price + 40: size for price, size in asks.items()})
        book.take(message)
        if number == asked:
            snapshot = DepthSnapshot(
                number, tuple(venue[0].items()), tuple((price + 40, size) for price, size in venue[1].items())
            )
    book.seed(snapshot, 1)
    for number in range(max(1, len(changes) - repeats), len(changes) + 1):
        bids, asks = changes[number - 1]
        book.take(update(number, number, bids, {price + 40: size for price, size in asks.items()}))
    bids_left, asks_left = book.top()
    assert dict(bids_left) == venue[0]
    assert {price - 40: size for price, size in asks_left} == venue[1]


# -- over real sockets --------------------------------------------------------------------------------


def rebuilt(records: Iterable[OrderBook]) -> tuple[dict[float, float], dict[float, float]]:
    """The book that a client makes of a full book's records, by the rules of the contract and nothing else."""
    sides: tuple[dict[float, float], dict[float, float]] = ({}, {})
    for record in records:
        for side, levels in zip(sides, (record.bids, record.asks), strict=True):
            if record.action == "snapshot":
                side.clear()
            side.update(levels)
            for price in [price for price, size in side.items() if not size]:
                del side[price]
    return sides


def books(host: FakeHost, depth: str) -> list[OrderBook]:
    return [record for record in host.records if isinstance(record, OrderBook) and record.depth == depth]


def best_of(
    sides: tuple[dict[float, float], dict[float, float]], count: int
) -> list[list[tuple[float, float]]]:
    bids, asks = sides
    return [sorted(bids.items(), reverse=True)[:count], sorted(asks.items())[:count]]


def venue_best(venue: FakeBinance, count: int) -> list[list[tuple[float, float]]]:
    return [
        [(float(f"{price / 100:.2f}"), float(f"{size / 1e8:.8f}")) for price, size in side]
        for side in venue.market("BTCUSDT").window(count)
    ]


async def steps(venue: FakeBinance, host: FakeHost, count: int) -> None:
    """Let so many things happen, and return when the host has seen all of it."""
    for _ in range(count):
        await venue.step("BTCUSDT")
    seen = len(host.discarded)
    venue.garbage()
    await host.wait_until(lambda: len(host.discarded) >= seen + len(venue.connections))


async def test_partial_books_are_the_venues_best_20(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BOOK])
    await start(host)
    await host.wait_confirmed([BOOK])
    await steps(venue, host, 100)
    found = books(host, "25")
    assert len(found) > 50
    assert {(book.action, len(book.bids), len(book.asks)) for book in found} == {("snapshot", 20, 20)}
    assert [list(found[-1].bids), list(found[-1].asks)] == venue_best(venue, 20)


async def test_a_full_book_follows_the_venues_level_by_level(venue: FakeBinance, start: Start) -> None:
    """The snapshot is on its way for a while, and old when it comes."""
    venue.rules.depth_delay_s = 0.3
    host = FakeHost([FULL, BOOK])
    await start(host)
    await venue.wait_subscribed(STREAM)
    await steps(venue, host, 30)
    await host.wait_until(lambda: bool(books(host, "full")))
    await steps(venue, host, 100)
    first, *updates = books(host, "full")
    assert first.action == "snapshot"
    assert min(len(first.bids), len(first.asks)) >= 900
    assert {book.action for book in updates} == {"update"}
    assert best_of(rebuilt([first, *updates]), 900) == venue_best(venue, 900)
    assert not host.gaps
    assert len([request for request in venue.requests if request.path == "/api/v3/depth"]) == 1


async def test_a_lost_message_is_a_hole_and_a_new_beginning(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([FULL])
    await start(host)
    await host.wait_until(lambda: bool(books(host, "full")))
    await steps(venue, host, 20)
    venue.lose_depth_update("BTCUSDT")
    await steps(venue, host, 20)
    assert list(zip(host.gaps, host.gap_feeds, host.gap_sizes, strict=True)) == [
        ("missed", frozenset({FULL}), None)
    ]
    await host.wait_until(lambda: [book.action for book in books(host, "full")].count("snapshot") == 2)
    await steps(venue, host, 20)
    assert best_of(rebuilt(books(host, "full")), 900) == venue_best(venue, 900)
    assert len(host.gaps) == 1


async def test_a_full_book_over_a_planned_change_of_connections(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([FULL])
    await start(host)
    await host.wait_until(lambda: bool(books(host, "full")))
    old = venue.connections[0]
    await venue.announce_shutdown()
    while old in venue.connections:
        await venue.step("BTCUSDT")
        await trio.sleep(0.002)
    await steps(venue, host, 20)
    assert [book.action for book in books(host, "full")].count("snapshot") == 1
    # The last change may still be on its way. Not all levels: trades ate into the known depth.
    with trio.fail_after(30):
        await host.wait_until(lambda: best_of(rebuilt(books(host, "full")), 100) == venue_best(venue, 100))
    assert not host.gaps


async def test_a_full_book_after_a_hole_between_two_connections(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([FULL])
    await start(host, Timing(overlap_s=0.05, retry_s=0.05))
    await host.wait_until(lambda: bool(books(host, "full")))
    old = venue.connections[0]
    venue.rules.refuse = (503, {}, "busy")
    await venue.announce_shutdown()
    await venue.wait_until(lambda: venue.attempts >= 2)
    await old.close(1001, "going away")
    await venue.wait_until(lambda: old in venue.past)
    await venue.step("BTCUSDT")
    venue.rules.refuse = None
    await venue.wait_subscribed(STREAM)
    await host.wait_until(lambda: [book.action for book in books(host, "full")].count("snapshot") == 2)
    await steps(venue, host, 20)
    assert best_of(rebuilt(books(host, "full")), 900) == venue_best(venue, 900)
    assert host.gaps == ["disconnected"]


async def test_a_snapshot_that_cannot_be_had_is_asked_for_again(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([FULL])
    await start(host)
    await host.wait_confirmed([FULL])
    await host.wait_until(lambda: bool(books(host, "full")))
    venue.rules.rest_refuse = (503, {}, "busy")
    asked = len(venue.requests)
    venue.lose_depth_update("BTCUSDT")
    await steps(venue, host, 5)
    await venue.wait_until(lambda: len(venue.requests) > asked + 1)
    venue.rules.rest_refuse = None
    await host.wait_until(lambda: [book.action for book in books(host, "full")].count("snapshot") == 2)


async def test_a_refused_snapshot_refuses_the_feed(venue: FakeBinance, start: Start) -> None:
    """As for a symbol that the list has and the book does not."""
    odd = Feed("S1", "orderbook", "full")
    host = FakeHost([odd, FULL])
    venue.rules.without = frozenset({"/api/v3/depth"})
    await start(host)
    await host.wait_until(lambda: host.refused.keys() == {odd, FULL})
    assert "no snapshot of the order book" in host.refused[odd]
    assert "HTTP 404" in host.refused[odd]


async def test_a_book_that_is_let_go_and_wanted_again_begins_anew(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([FULL])
    await start(host)
    await host.wait_until(lambda: bool(books(host, "full")))
    host.demand.set([])
    await venue.wait_until(lambda: not venue.streams)
    await venue.step("BTCUSDT")
    host.demand.set([FULL])
    await host.wait_until(lambda: [book.action for book in books(host, "full")].count("snapshot") == 2)
    await steps(venue, host, 20)
    assert best_of(rebuilt(books(host, "full")), 900) == venue_best(venue, 900)
    assert not host.gaps


async def test_a_book_that_the_server_asks_for_anew_begins_with_a_snapshot(
    venue: FakeBinance, start: Start
) -> None:
    """Let go and wanted again before the broker looked: nothing was unsubscribed, but changes are missing."""
    host = FakeHost([FULL])
    broker = await start(host)
    assert isinstance(broker, BookRenewal)
    await host.wait_until(lambda: bool(books(host, "full")))
    await steps(venue, host, 5)
    broker.renew_books(["BTCUSDT", "ETHUSDT"])
    broker.renew_books(["BTCUSDT"])
    await host.wait_until(lambda: [book.action for book in books(host, "full")].count("snapshot") == 2)
    await steps(venue, host, 20)
    assert [book.action for book in books(host, "full")].count("snapshot") == 2
    assert best_of(rebuilt(books(host, "full")), 900) == venue_best(venue, 900)


async def test_other_depths_and_kinds_are_refused_with_the_reason(venue: FakeBinance, start: Start) -> None:
    seven, candle = Feed("BTCUSDT", "orderbook", "7"), Feed("BTCUSDT", "candle", "1m")
    odd = Feed("BTCUSDT", "tick", "x")
    host = FakeHost([BOOK, seven, candle, odd])
    await start(host)
    await host.wait_confirmed([BOOK])
    assert host.refused == {
        seven: "order book '7': Binance has 25 or full",
        candle: "no candle records come from Binance",
        odd: "no tick x comes from Binance",
    }
