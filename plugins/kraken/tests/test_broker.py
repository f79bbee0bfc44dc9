"""Sessions against the fake venue, over real sockets."""

import json
from collections.abc import Awaitable, Callable, Iterable

import attrs
import pytest
import trio
import trio.testing

from mdserver.errors import Rejected, Unavailable
from mdserver.model import Feed, Instrument, OrderBook, Tick, Trade
from mdserver.net import WebSocketClosed
from mdserver.plugin import BookRenewal
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import PAIRS, FakeKraken
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_kraken.link import Timing

from .conftest import FAST

Start = Callable[..., Awaitable[None]]

BTC, BTC_TRADES, BTC_BOOK = Feed("BTCUSD", "tick"), Feed("BTCUSD", "trade"), Feed("BTCUSD", "orderbook", "25")
BTC_FULL = Feed("BTCUSD", "orderbook", "full")
ETH = Feed("ETHUSD", "tick")
DOGE = Feed("DOGEUSD", "tick")
MINA = Feed("MINAGBP", "tick")


def requests(venue: FakeKraken, method: str = "subscribe") -> list[dict[str, object]]:
    """The parameters of all requests of a method, in the order in which they came."""
    texts = [text for client in (*venue.past, *venue.clients) for text in client.received]
    return [request["params"] for request in map(json.loads, texts) if request["method"] == method]


async def test_ticks_are_the_best_prices_of_the_venue(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC, DOGE])
    await start(host)
    await host.wait_confirmed([BTC, DOGE])
    for _ in range(30):
        venue.step("BTC/USD")
        venue.step("DOGE/USD")
    for symbol in ("BTC/USD", "DOGE/USD"):
        market = venue.markets[symbol]
        (bid, bid_qty), (ask, ask_qty) = market.best()
        unit = 10**market.pair.price_digits
        last = (bid / unit, ask / unit, bid_qty / 10**8, ask_qty / 10**8)

        def has_come(symbol: str = symbol.replace("/", ""), last: tuple[float, ...] = last) -> bool:
            ticks = [r for r in host.records if isinstance(r, Tick) and r.symbol == symbol]
            return (
                bool(ticks) and (ticks[-1].bid, ticks[-1].ask, ticks[-1].bid_size, ticks[-1].ask_size) == last
            )

        await host.wait_until(has_come)
    assert not host.discarded
    assert {
        "channel": "ticker",
        "symbol": ["BTC/USD", "DOGE/USD"],
        "event_trigger": "bbo",
        "snapshot": True,
    } in requests(venue)


async def test_the_first_tick_needs_no_change(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    (tick,) = await host.wait_records(1)
    assert (tick.symbol, type(tick)) == ("BTCUSD", Tick)


async def test_every_trade_of_every_frame_arrives_once_in_order(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    made = [trade for count in (1, 3, 2, 7) for trade in venue.trade("BTC/USD", count)]
    records = await host.wait_records(13)
    assert [(r.price, r.size, r.side, r.trade_id, r.time_us) for r in records if isinstance(r, Trade)] == [
        (t.price / 10, t.qty / 10**8, t.side, str(t.trade_id), t.time_ns // 1000) for t in made
    ]
    assert not host.gaps


async def test_a_jump_of_trade_ids_is_a_hole_of_that_feed_alone(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC, BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    venue.trade("BTC/USD", 2)
    venue.trade("BTC/USD", 1, skip_ids=3)
    await host.wait_until(lambda: bool(host.gaps) and sum(isinstance(r, Trade) for r in host.records) == 3)
    assert list(zip(host.gaps, host.gap_feeds, strict=True)) == [("missed", frozenset({BTC_TRADES}))]
    assert host.gap_sizes == [3]


async def test_a_hole_is_announced_between_its_neighbours(
    venue: FakeKraken, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    host = FakeHost([BTC_TRADES])
    monkeypatch.setattr(host, "publish", lambda batch, **_: told.extend(int(r.trade_id) for r in batch))
    monkeypatch.setattr(host, "gap", lambda cause, feeds, _size: told.append((cause, set(feeds))))
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    first = venue.markets["BTC/USD"].next_trade_id
    frame = ",".join(
        f'{{"symbol":"BTC/USD","side":"buy","price":1.0,"qty":1.0,"ord_type":"limit","trade_id":{first + n},'
        f'"timestamp":"2026-07-08T05:24:41.204829Z"}}'
        for n in (0, 1, 1, 0, 5, 6)
    )
    venue.push("trade:BTC/USD", f'{{"channel":"trade","type":"update","data":[{frame}]}}')
    await host.wait_until(lambda: first + 6 in told)
    assert told == [first, first + 1, ("missed", {BTC_TRADES}), first + 5, first + 6]
    assert host.ignored_kinds["repeated trade"] == 2


async def test_old_trades_of_a_snapshot_are_not_live(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    venue.push(None, '{"channel":"trade","type":"snapshot","data":[]}')
    await host.wait_until(lambda: host.ignored_kinds["trade snapshot"] == 1)


async def test_instruments_are_known_before_anything_is_asked_for(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC, Feed("NOSUCH", "tick")])
    await start(host)
    assert host.table is not None
    assert Instrument("BTCUSD", "BTC/USD", "BTC", "USD") in host.table
    assert Instrument("RLUSDUSD", "RLUSD/USD", "RLUSD", "USD") in host.table
    assert len(host.table) == len(PAIRS)
    await host.wait_confirmed([BTC])
    assert host.refused == {Feed("NOSUCH", "tick"): "Kraken lists no NOSUCH"}


async def test_a_pair_that_is_listed_later(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    venue.list_pair(attrs.evolve(PAIRS[0], symbol="NEW/USD", rest_key="NEWUSD", rest_base="NEW"))
    await host.wait_until(lambda: len(host.table or ()) == len(PAIRS) + 1)
    new = Feed("NEWUSD", "tick")
    host.demand.set([BTC, new])
    await host.wait_confirmed([new])
    venue.list_pair(attrs.evolve(PAIRS[1], status="delisted"))
    await host.wait_until(lambda: len(host.table or ()) == len(PAIRS))
    assert "ETHUSD" not in {instrument.symbol for instrument in host.table or ()}


async def test_of_two_pairs_with_one_symbol_the_first_is_taken(venue: FakeKraken, start: Start) -> None:
    host = FakeHost()
    await start(host)
    venue.list_pair(attrs.evolve(PAIRS[0], symbol="BTCU/SD"))
    venue.list_pair(attrs.evolve(PAIRS[0], symbol="LAST/USD"))
    await host.wait_until(lambda: "LASTUSD" in {i.symbol for i in host.table or ()})
    assert [i.venue_symbol for i in host.table or () if i.symbol == "BTCUSD"] == ["BTC/USD"]


async def test_demand_is_followed(venue: FakeKraken, start: Start) -> None:
    host = FakeHost()
    await start(host)
    host.demand.set([BTC, ETH, BTC_TRADES])
    await host.wait_confirmed([BTC, ETH, BTC_TRADES])
    host.demand.set([ETH])
    always = {"instrument", "heartbeat"}
    await venue.wait_until(lambda: venue.topics == {"ticker:ETH/USD:bbo"} | always)
    host.demand.set([])
    await venue.wait_until(lambda: venue.topics == always)
    host.confirmed.clear()
    host.demand.set([BTC])
    await host.wait_confirmed([BTC])


async def test_acks_in_any_order_and_refusals_with_the_venues_reason(venue: FakeKraken, start: Start) -> None:
    venue.rules.acks = "shuffled"
    venue.rules.refused = {"ETH/USD": "Market in cancel_only mode"}
    feeds = [Feed(pair.symbol.replace("/", ""), "tick") for pair in PAIRS]
    host = FakeHost(feeds)
    await start(host)
    await host.wait_confirmed(set(feeds) - {ETH})
    await host.wait_until(lambda: bool(host.refused))
    assert host.refused == {ETH: "refused by Kraken: Market in cancel_only mode"}
    assert not venue.past


async def test_a_refused_feed_may_return(venue: FakeKraken, start: Start) -> None:
    venue.rules.refused = {"ETH/USD": "Currency pair not supported ETH/USD"}
    host = FakeHost([ETH])
    await start(host)
    await host.wait_until(lambda: ETH in host.refused)
    venue.rules.refused = {}
    host.demand.set([ETH])
    await host.wait_confirmed([ETH])


async def test_without_an_ack_it_is_asked_again_then_said(venue: FakeKraken, start: Start) -> None:
    venue.rules.mute = frozenset({"MINA/GBP"})
    host = FakeHost([BTC, MINA])
    await start(host)
    await host.wait_until(lambda: MINA in host.refused)
    assert host.refused == {MINA: "no answer from Kraken within 0.3 s, asked 3 times"}
    assert BTC in host.confirmed
    assert sum("MINA/GBP" in params.get("symbol", []) for params in requests(venue)) == 3  # type: ignore[operator]
    venue.push("ticker:BTC/USD:bbo", "{}")  # the session goes on
    await host.wait_until(lambda: bool(host.discarded))


async def test_a_venue_that_answers_nothing_ends_the_session(venue: FakeKraken) -> None:
    venue.rules.mute = frozenset({"BTC/USD"})
    with pytest.raises(Unavailable, match="none of our requests was answered"):
        await run(venue, FakeHost([BTC]))


async def test_too_many_messages_are_asked_again(
    venue: FakeKraken, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_kraken.subscriptions.RATE_PAUSE_S", 1.2)
    venue.rules.max_messages_per_s = 2
    host = FakeHost([BTC, BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    assert not host.refused
    assert len(requests(venue)) > 3


async def test_a_heartbeat_is_life_and_nothing_else(venue: FakeKraken, start: Start) -> None:
    host = FakeHost()
    await start(host)
    before = host.alive_count
    await host.wait_until(lambda: host.alive_count >= before + 3)
    assert not host.records
    assert not host.ignored_kinds


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


async def test_bad_frames_are_discarded_and_the_stream_goes_on(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    venue.garbage()
    venue.push(None, '{"channel":"trade","type":"update","data":[{}]}')
    venue.push(None, '{"channel":"ohlc","type":"update","data":[]}')
    venue.push(None, '{"method":"subscribe","success":true,"result":{"channel":"book"},"req_id":999}')
    venue.trade("BTC/USD")
    await host.wait_records(1)
    assert len(host.discarded) == 2
    assert host.ignored_kinds == {"ohlc": 1, "reply": 1}
    assert not venue.past


async def test_the_state_of_the_exchange_ends_nothing(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    venue.change_system("maintenance")
    venue.change_system("online")
    venue.trade("BTC/USD")
    await host.wait_records(1)


async def run(venue: FakeKraken, host: FakeHost, timing: Timing = FAST, **settings: object) -> None:
    config = KrakenConfig(**({"url": venue.url, "rest_url": venue.rest_url} | settings))  # type: ignore[arg-type]
    await KrakenBroker(config, timing).run(host)


@pytest.mark.parametrize(
    ("status", "error"), [(451, Rejected), (404, Rejected), (403, Unavailable), (429, Unavailable), (503, Unavailable)]
)  # fmt: skip
async def test_refused_connections(venue: FakeKraken, status: int, error: type[Exception]) -> None:
    venue.refuse(status, "restricted location", {"Retry-After": "9"})
    with pytest.raises(error, match=f"HTTP {status}: restricted location") as caught:
        await run(venue, FakeHost())
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after_s == 9


async def test_too_many_attempts_are_no_verdict(venue: FakeKraken) -> None:
    venue.rules.max_connects = 0
    with pytest.raises(Unavailable, match="HTTP 429"):
        await run(venue, FakeHost())


@pytest.mark.parametrize(
    ("end", "error", "told"),
    [
        (FakeKraken.disconnect, WebSocketClosed, "1001 going away"),
        (FakeKraken.hang_up, Unavailable, "without a close frame"),
        (FakeKraken.reset, Unavailable, "connection lost"),
        (FakeKraken.reset_in_frame, Unavailable, "connection lost"),
        (FakeKraken.go_dark, Unavailable, "nothing received for 2 s"),
    ],
)
async def test_each_end_of_a_connection(
    venue: FakeKraken,
    nursery: trio.Nursery,
    end: Callable[[FakeKraken], None],
    error: type[Unavailable],
    told: str,
) -> None:
    host = FakeHost([BTC])

    async def act() -> None:
        await host.wait_confirmed([BTC])
        end(venue)

    nursery.start_soon(act)
    with pytest.raises(error, match=told):
        await run(venue, host, silence_s=2.0)


async def test_no_list_of_instruments_in_time_is_unavailable(venue: FakeKraken) -> None:
    venue.rules.snapshots = False
    with pytest.raises(Unavailable, match=r"no list of instruments within 0.1 s"):
        await run(venue, FakeHost(), Timing(instruments_s=0.1))


async def test_a_refused_list_of_instruments_is_unavailable(venue: FakeKraken) -> None:
    venue.rules.max_messages_per_s = 0
    with pytest.raises(Unavailable, match="no list of instruments: Exceeded msg rate"):
        await run(venue, FakeHost())


@pytest.mark.slow
async def test_a_slow_venue_loses_nothing(venue: FakeKraken, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    venue.slow(100_000)
    for _ in range(100):
        venue.trade("BTC/USD")
    records = await host.wait_records(100)
    assert len({r.trade_id for r in records if isinstance(r, Trade)}) == 100
    assert not host.gaps


async def test_a_second_session_begins_without_the_firsts_numbers(
    venue: FakeKraken, nursery: trio.Nursery
) -> None:
    host = FakeHost([BTC_TRADES])
    broker = KrakenBroker(KrakenConfig(url=venue.url, rest_url=venue.rest_url), FAST)
    for expected in (1, 2):
        ended = trio.Event()

        async def session(ended: trio.Event = ended) -> None:
            with pytest.raises(WebSocketClosed):
                await broker.run(host)
            ended.set()

        host.confirmed.clear()
        nursery.start_soon(session)
        await host.wait_confirmed([BTC_TRADES])
        venue.trade("BTC/USD", skip_ids=5)
        await host.wait_records(expected)
        venue.disconnect()
        await ended.wait()
    assert not host.gaps  # the end of a session is the host's to announce
