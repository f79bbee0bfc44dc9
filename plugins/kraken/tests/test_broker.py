"""Sessions against the fake venue, over real sockets: records, instruments, demand."""

import attrs
import pytest
import trio
import trio.testing

from mdserver.model import Feed, Instrument, Tick, Trade
from mdserver.net import WebSocketClosed
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import PAIRS, FakeKraken
from mdserver_kraken import KrakenBroker, KrakenConfig

from .conftest import FAST
from .sessions import BTC, BTC_TRADES, DOGE, ETH, MINA, Start, requests


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
