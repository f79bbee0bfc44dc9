"""Sessions against the fake venue, over real sockets: records, demand, ids of trades."""

import json
from collections.abc import Iterable, Sequence

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.model import Feed, Record, Tick, Trade
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig

from .sessions import BTC, BTC_TRADES, ETH, QUICK, Start, bids, push_tickers, ticker, trade


async def test_ticks_and_trades_arrive_in_order(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC, BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    for number in range(50):
        await venue.push("btcusdt@bookTicker", ticker(number))
        await venue.push("btcusdt@trade", trade(number))
    records = await host.wait_records(100)
    assert [type(record) for record in records] == [Tick, Trade] * 50
    assert bids(host) == [number + 0.5 for number in range(50)]
    assert [record.trade_id for record in records[1::2]] == [str(number) for number in range(50)]


async def test_records_of_one_read_come_in_one_batch(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    texts = [
        json.dumps({"stream": "btcusdt@bookTicker", "data": ticker(n)}).encode() for n in range(100, 150)
    ]
    frames = b"".join(b"\x81\x7e" + len(text).to_bytes(2, "big") + text for text in texts if len(text) > 125)
    short = b"".join(bytes([0x81, len(text)]) + text for text in texts if len(text) <= 125)
    await venue.connections[0].send_raw(frames + short)
    await host.wait_records(50)
    assert [len(batch) for batch in host.batches] == [50]


async def test_demand_is_followed(venue: FakeBinance, start: Start) -> None:
    host = FakeHost()
    await start(host)
    host.demand.set([BTC, ETH])
    await host.wait_confirmed([BTC, ETH])
    host.demand.set([ETH])
    await venue.wait_until(lambda: venue.streams == {"ethusdt@bookTicker"})
    host.demand.set([])
    await venue.wait_until(lambda: not venue.streams)


async def test_a_storm_of_changes_stays_below_the_venues_limit(venue: FakeBinance, start: Start) -> None:
    host = FakeHost()
    await start(host)
    for number in range(60):
        host.demand.set(Feed(f"S{n}", "tick") for n in range(number + 1))
        if number % 40 == 0:
            await venue.connections[0].send_ping()
        await trio.sleep(0.03)
    await host.wait_confirmed(Feed(f"S{n}", "tick") for n in range(60))
    assert not venue.past
    assert len(venue.connections[0].received) <= 10


async def test_one_bad_stream_does_not_cost_the_others(venue: FakeBinance, start: Start) -> None:
    """A nested error and then a close: the culprit is found and refused, the session goes on."""
    venue.rules.malformed = frozenset({"s7@bookTicker"})
    feeds = [Feed(f"S{n}", "tick") for n in range(12)]
    host = FakeHost(feeds)
    await start(host)
    good = set(feeds) - {feeds[7]}
    await host.wait_until(lambda: host.confirmed >= good and bool(host.refused))
    assert host.refused == {feeds[7]: "refused by Binance: Invalid request: invalid stream (code 2)"}
    await venue.wait_until(lambda: len(venue.streams) == 11)
    await venue.push("s1@bookTicker", ticker(1, "S1"))
    await host.wait_records(1)
    assert venue.attempts <= 5


async def test_bad_frames_are_discarded_and_the_stream_goes_on(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    connection = venue.connections[0]
    await connection.send_text("not json")
    await connection.send_text('{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT"}}')
    await connection.send_data("btcusdt@bookTicker", json.dumps(ticker(1) | {"b": "NaN"}).encode())
    await connection.send_data("btcusdt@kline_1m", b'{"e":"kline"}')
    await connection.send_text('{"result":null,"id":999}')
    await push_tickers(venue, range(3))
    await host.wait_records(3)
    assert len(host.discarded) == 3
    assert host.ignored_kinds == {"kline": 1, "reply": 1}
    assert not venue.past


async def test_pings_count_as_life(venue: FakeBinance, start: Start) -> None:
    host = FakeHost()
    await start(host)
    payload = await venue.connections[0].send_ping()
    await host.wait_until(lambda: host.alive_count > 0)
    await venue.wait_until(lambda: venue.connections[0].pongs == [payload])


async def test_times_are_asked_for_in_microseconds(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    assert venue.connections[0].client.target == "/stream?timeUnit=MICROSECOND"
    text = json.dumps({"stream": "btcusdt@trade", "data": trade(1) | {"T": 1672515782136789}})
    await venue.connections[0].send_text(text)
    (record,) = await host.wait_records(1)
    assert record.time_us == 1672515782136789


async def test_a_jump_of_trade_ids_is_a_hole_of_that_feed_with_its_size(
    venue: FakeBinance, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    host = FakeHost([BTC, BTC_TRADES])
    publish, gap = host.publish, host.gap

    def note_batch(batch: Sequence[Record], *, received_us: int | None = None) -> None:
        told.extend(record.trade_id for record in batch if isinstance(record, Trade))
        publish(batch, received_us=received_us)

    def note_gap(cause: str, feeds: Iterable[Feed] | None = None, size: int | None = None) -> None:
        told.append((cause, set(feeds or ()), size))
        gap(cause, feeds, size)

    monkeypatch.setattr(host, "publish", note_batch)
    monkeypatch.setattr(host, "gap", note_gap)
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    before = [str(t.number) for t in await venue.trade("BTCUSDT", 6)]
    after = [str(t.number) for t in await venue.trade("BTCUSDT", 2, skip_ids=3)]
    await host.wait_until(lambda: len(told) == 9)
    assert told == [*before, ("missed", {BTC_TRADES}, 3), *after]


async def test_ids_that_do_not_count_are_no_holes(venue: FakeBinance, start: Start) -> None:
    """A relay may number in its own way; a trade that comes again is left out all the same."""
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    for number in (10, 20, 21, 22, 30, 30, 40):
        await venue.push("btcusdt@trade", trade(number))
    await host.wait_records(6)
    assert not host.gaps
    assert host.ignored_kinds == {"repeated trade": 1}


async def test_a_second_session_counts_ids_anew(venue: FakeBinance, nursery: trio.Nursery) -> None:
    host = FakeHost([BTC_TRADES])
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK)
    for expected in (7, 14):
        ended = trio.Event()

        async def session(ended: trio.Event = ended) -> None:
            with pytest.raises(Unavailable):
                await broker.run(host)
            ended.set()

        nursery.start_soon(session)
        await venue.wait_subscribed("btcusdt@trade")
        await venue.trade("BTCUSDT", 7, skip_ids=5)
        await host.wait_records(expected)
        venue.reset()
        await ended.wait()
    assert not host.gaps  # the end of a session is the host's to announce


async def test_a_slow_venue_loses_nothing_and_late_acks_are_acks(venue: FakeBinance, start: Start) -> None:
    venue.rules.ack_delay_s = 0.3
    host = FakeHost([BTC_TRADES])
    await start(host)
    await venue.wait_subscribed("btcusdt@trade")
    venue.slow(50_000)
    await venue.trade("BTCUSDT", 40)
    await host.wait_confirmed([BTC_TRADES])
    await host.wait_records(40)
    assert not host.gaps


async def test_a_feed_that_is_let_go_and_wanted_again_is_confirmed_again(
    venue: FakeBinance, start: Start
) -> None:
    """Until the venue has answered it is still served, which must not count as told for the next time."""
    host = FakeHost([BTC, ETH])
    await start(host)
    await host.wait_confirmed([BTC, ETH])
    host.confirmed.clear()
    host.demand.set([])
    await venue.wait_until(lambda: not venue.streams)
    assert not host.confirmed
    host.demand.set([BTC])
    await host.wait_confirmed([BTC])
