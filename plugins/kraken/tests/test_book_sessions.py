"""Order books of sessions against the fake venue: both depths, broken and late ones."""

from collections.abc import Callable, Iterable

import pytest
import trio
import trio.testing

from mdserver.model import Feed, OrderBook
from mdserver.plugin import BookRenewal
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import FakeKraken
from mdserver_kraken.link import Timing

from .conftest import FAST
from .sessions import BTC, BTC_BOOK, BTC_FULL, Start, requests


async def test_books_follow_the_venue_level_by_level(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_BOOK])
    await start(host)
    await venue.wait_until(lambda: "book:BTC/USD:25" in venue.topics)
    for _ in range(300):
        venue.step("BTC/USD")
    venue.push(None, "the end")
    await host.wait_until(lambda: bool(host.discarded))
    assert not host.gaps
    assert not host.ignored_kinds
    assert requests(venue, "unsubscribe") == []
    books = [record for record in host.records if isinstance(record, OrderBook)]
    assert len(books) > 50
    assert all(len(book.bids) == len(book.asks) == 25 for book in books)
    assert {(book.action, book.depth) for book in books} == {("snapshot", "25")}
    bids, asks = venue.markets["BTC/USD"].window(25)
    assert books[-1].bids == tuple((price / 10, size / 10**8) for price, size in bids.items())
    assert books[-1].asks == tuple((price / 10, size / 10**8) for price, size in asks.items())


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


def books_of(host: FakeHost, depth: str) -> list[OrderBook]:
    return [record for record in host.records if isinstance(record, OrderBook) and record.depth == depth]


def window(venue: FakeKraken, depth: int) -> tuple[dict[float, float], dict[float, float]]:
    bids, asks = (
        {price / 10: size / 10**8 for price, size in side.items()}
        for side in venue.markets["BTC/USD"].window(depth)
    )
    return bids, asks


async def the_end(venue: FakeKraken, host: FakeHost) -> None:
    before = len(host.discarded)
    venue.push(None, "the end")
    await host.wait_until(lambda: len(host.discarded) > before)


async def test_a_full_book_is_a_snapshot_and_what_changes(venue: FakeKraken, start: Start) -> None:
    """Also where levels are pushed out of its depth, of which the venue says nothing."""
    host = FakeHost([BTC_FULL])
    await start(host)
    await venue.wait_until(lambda: "book:BTC/USD:1000" in venue.topics)
    market = venue.markets["BTC/USD"]
    for number in range(150):
        if number % 3 == 0:  # a better price than any pushes the worst one out
            market.bids[max(market.bids) + 1] = market.asks.pop(min(market.asks))
        venue.step("BTC/USD")
    await the_end(venue, host)
    first, *updates = books_of(host, "full")
    assert (first.action, len(first.bids), len(first.asks)) == ("snapshot", 1000, 1000)
    assert {update.action for update in updates} == {"update"}
    assert sum(len(update.bids) + len(update.asks) for update in updates) < 3000
    assert rebuilt([first, *updates]) == window(venue, 1000)
    assert not books_of(host, "25")


async def test_both_depths_come_of_one_book_of_the_venue(venue: FakeKraken, start: Start) -> None:
    """Its messages do not say of which depth they are, so there is one at a time, the full one if that is wanted."""
    host = FakeHost([BTC_BOOK])
    await start(host)

    async def served_with(topic: str) -> None:
        books = lambda: {name for name in venue.topics if name.startswith("book")}  # noqa: E731
        await venue.wait_until(lambda: books() == {topic})
        for _ in range(50):
            venue.step("BTC/USD")
        await the_end(venue, host)

    await served_with("book:BTC/USD:25")
    host.demand.set([BTC_BOOK, BTC_FULL])
    await host.wait_confirmed([BTC_BOOK, BTC_FULL])
    await served_with("book:BTC/USD:1000")
    assert rebuilt(books_of(host, "full")) == window(venue, 1000)
    assert rebuilt(books_of(host, "25")[-1:]) == window(venue, 25)
    host.demand.set([BTC_FULL])
    await trio.testing.wait_all_tasks_blocked()  # the broker has seen it
    host.confirmed.clear()
    host.demand.set([BTC_BOOK, BTC_FULL])
    await host.wait_confirmed([BTC_BOOK])
    host.demand.set([BTC_BOOK])
    await served_with("book:BTC/USD:25")
    assert rebuilt(books_of(host, "25")[-1:]) == window(venue, 25)
    assert not host.gaps


async def test_a_full_book_that_the_server_asks_for_anew_begins_with_a_snapshot(
    venue: FakeKraken, start: Start
) -> None:
    """Let go and wanted again before the broker looked: nothing was unsubscribed, but changes are missing."""
    host = FakeHost([BTC_BOOK, BTC_FULL])
    broker = await start(host)
    assert isinstance(broker, BookRenewal)
    await venue.wait_until(lambda: "book:BTC/USD:1000" in venue.topics)
    await host.wait_until(lambda: bool(books_of(host, "full")))
    broker.renew_books(["BTCUSD"])
    await host.wait_until(lambda: [book.action for book in books_of(host, "full")].count("snapshot") == 2)
    for _ in range(20):
        venue.step("BTC/USD")
    await the_end(venue, host)
    assert rebuilt(books_of(host, "full")) == window(venue, 1000)
    assert (host.gaps, host.gap_feeds) == (["missed"], [frozenset({BTC_BOOK, BTC_FULL})])


async def test_a_full_book_that_broke_begins_with_a_snapshot_again(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_BOOK, BTC_FULL])
    await start(host)
    await venue.wait_until(lambda: "book:BTC/USD:1000" in venue.topics)
    venue.break_checksum("BTC/USD")
    while not host.gaps:
        venue.step("BTC/USD")
        await trio.sleep(0.01)
    assert host.gap_feeds == [frozenset({BTC_BOOK, BTC_FULL})]
    await venue.wait_until(lambda: len(requests(venue, "unsubscribe")) == 1)
    await venue.wait_until(lambda: "book:BTC/USD:1000" in venue.topics)
    for _ in range(50):
        venue.step("BTC/USD")
    await the_end(venue, host)
    assert [book.action for book in books_of(host, "full")].count("snapshot") == 2
    assert rebuilt(books_of(host, "full")) == window(venue, 1000)


async def test_a_book_of_another_depth_is_refused_with_the_reason(venue: FakeKraken, start: Start) -> None:
    deep = Feed("BTCUSD", "orderbook", "7")
    host = FakeHost([BTC_BOOK, deep, Feed("BTCUSD", "candle", "1m")])
    await start(host)
    await host.wait_confirmed([BTC_BOOK])
    assert host.refused == {
        deep: "order book '7': Kraken has 25 or full",
        Feed("BTCUSD", "candle", "1m"): "no candle records come from Kraken",
    }


@pytest.mark.parametrize("fault", [FakeKraken.break_checksum, FakeKraken.lose_book_update])
async def test_a_broken_book_is_said_and_asked_for_anew(
    venue: FakeKraken, start: Start, fault: Callable[[FakeKraken, str], None]
) -> None:
    host = FakeHost([BTC, BTC_BOOK])
    await start(host)
    topic = "book:BTC/USD:25"
    await venue.wait_until(lambda: topic in venue.topics)
    fault(venue, "BTC/USD")
    while not host.gaps:  # a lost update shows with one of the next
        venue.step("BTC/USD")
        await trio.sleep(0.01)
    assert list(zip(host.gaps, host.gap_feeds, strict=True)) == [("checksum", frozenset({BTC_BOOK}))]
    await venue.wait_until(lambda: len(requests(venue, "unsubscribe")) == 1 and topic in venue.topics)
    for _ in range(50):
        venue.step("BTC/USD")
    venue.push(None, "the end")
    await host.wait_until(lambda: bool(host.discarded))
    assert len(host.gaps) == 1
    await host.wait_confirmed([BTC, BTC_BOOK])


async def test_a_book_that_breaks_again_and_again_is_asked_for_ever_less_often(
    venue: FakeKraken, start: Start
) -> None:
    host = FakeHost([BTC_BOOK])
    await start(host)
    times: list[float] = []
    for number in range(4):
        venue.break_checksum("BTC/USD")
        await venue.wait_until(lambda: "book:BTC/USD:25" in venue.topics)
        times.append(trio.current_time())
        while len(host.gaps) <= number:
            venue.step("BTC/USD")
            await trio.sleep(0.005)
        await venue.wait_until(lambda: "book:BTC/USD:25" not in venue.topics)
    assert times[2] - times[1] >= FAST.renew_s
    assert times[3] - times[2] >= 2 * FAST.renew_s


async def test_a_book_whose_snapshot_never_comes_is_asked_for_anew(venue: FakeKraken, start: Start) -> None:
    venue.rules.snapshots = False
    host = FakeHost([BTC_BOOK])
    await start_with_instruments(venue, host, start)
    await venue.wait_until(lambda: "book:BTC/USD:25" in venue.topics)
    while not requests(venue, "unsubscribe"):
        venue.step("BTC/USD")
        await trio.sleep(0.02)
    venue.rules.snapshots = True
    await venue.wait_until(lambda: "book:BTC/USD:25" in venue.topics)
    assert host.ignored_kinds["book update without a snapshot"] > 0


async def start_with_instruments(venue: FakeKraken, host: FakeHost, start: Start) -> None:
    """Start a session with a venue that sends no snapshots but that of the instruments."""
    venue.rules.snapshots = True
    host.demand.set([])
    await start(host)
    venue.rules.snapshots = False
    host.demand.set([BTC_BOOK])


async def test_a_late_snapshot_is_waited_for(venue: FakeKraken, start: Start) -> None:
    venue.rules.snapshot_delay_s = 0.2
    host = FakeHost([BTC_BOOK])
    await start(host, Timing(request_gap_s=0.01))
    await host.wait_confirmed([BTC_BOOK])
    await venue.wait_until(lambda: "book:BTC/USD:25" in venue.topics)
    for _ in range(50):
        venue.step("BTC/USD")
    venue.push(None, "the end")
    await host.wait_until(lambda: bool(host.discarded))
    assert not host.gaps
    assert requests(venue, "unsubscribe") == []
