"""Sessions against the fake venue, over real sockets."""

import functools
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence

import attrs
import pytest
import trio

from mdserver.errors import Rejected, Unavailable
from mdserver.model import Feed, OrderBook, Record, Tick, Trade
from mdserver.net.websocket import WebSocket
from mdserver.testing.binance import FakeBinance, FakeConnection
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.broker import Timing
from mdserver_binance.link import Link

Start = Callable[..., Awaitable[BinanceBroker]]

BTC = Feed("BTCUSDT", "tick")
BTC_TRADES = Feed("BTCUSDT", "trade")
BTC_BOOK, BTC_FULL = Feed("BTCUSDT", "orderbook", "25"), Feed("BTCUSDT", "orderbook", "full")
ETH = Feed("ETHUSDT", "tick")
QUICK = Timing(lifetime_s=3600.0, overlap_s=0.1, retry_s=0.05)


def ticker(number: int, symbol: str = "BTCUSDT") -> dict[str, object]:
    return {"u": number, "s": symbol, "b": f"{number}.5", "B": "1", "a": f"{number}.75", "A": "2"}


def trade(number: int) -> dict[str, object]:
    time = 1672515782136 + number
    return {
        "e": "trade",
        "E": time,
        "s": "BTCUSDT",
        "t": number,
        "p": "5",
        "q": "1",
        "T": time,
        "m": False,
        "M": True,
    }


async def push_tickers(venue: FakeBinance, numbers: range) -> None:
    for number in numbers:
        await venue.push("btcusdt@bookTicker", ticker(number))


def bids(host: FakeHost) -> list[float]:
    return [record.bid for record in host.records if isinstance(record, Tick)]


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


async def test_beyond_the_cap_of_a_connection_there_is_another(venue: FakeBinance, start: Start) -> None:
    feeds = [Feed(f"S{n}", "tick") for n in range(1030)]
    host = FakeHost(feeds)
    await start(host)
    await host.wait_confirmed(feeds)
    assert not host.refused
    assert sorted(len(connection.streams) for connection in venue.connections) == [6, 1024]
    assert not venue.past
    host.demand.set(feeds[-3:])
    await venue.wait_until(lambda: len(venue.streams) == 3)
    assert not venue.past or len(venue.connections) == 1


async def several(venue: FakeBinance, start: Start) -> FakeHost:
    """A session of three connections with two streams each."""
    host = FakeHost([Feed(f"S{n}", "tick") for n in range(6)])
    await start(host, max_streams=2)
    await host.wait_confirmed(host.demand.current())
    assert [len(connection.streams) for connection in venue.connections] == [2, 2, 2]
    return host


def carrier(venue: FakeBinance, symbol: str) -> FakeConnection:
    return next(c for c in venue.connections if f"{symbol.lower()}@bookTicker" in c.streams)


async def test_one_of_several_connections_is_lost_and_the_others_go_on(
    venue: FakeBinance, start: Start
) -> None:
    host = await several(venue, start)
    old = carrier(venue, "S2")
    mates = {Feed(name.partition("@")[0].upper(), "tick") for name in old.streams}
    old.reset()
    await venue.wait_until(lambda: old in venue.past and len(venue.streams) == 6)
    assert list(zip(host.gaps, host.gap_feeds, strict=True)) == [("disconnected", frozenset(mates))]
    for n in range(6):
        await venue.push(f"s{n}@bookTicker", ticker(n, f"S{n}"))
    await host.wait_records(6)
    assert len(venue.past) == 1


async def test_each_of_several_connections_is_replaced_by_itself(venue: FakeBinance, start: Start) -> None:
    host = await several(venue, start)
    old = carrier(venue, "S4")
    others = [connection for connection in venue.connections if connection is not old]
    await venue.announce_shutdown([old])
    number = 0
    while old in venue.connections:
        number += 1
        for name in ("S0", "S4"):
            await venue.push(f"{name.lower()}@bookTicker", ticker(number, name))
        await trio.sleep(0.002)
    await host.wait_records(2 * number)
    for name in ("S0", "S4"):
        ticks = [r.bid for r in host.records if isinstance(r, Tick) and r.symbol == name]
        assert ticks == [n + 0.5 for n in range(1, number + 1)]
    assert not host.gaps
    assert all(connection in venue.connections for connection in others)


async def test_a_connection_without_streams_is_closed(venue: FakeBinance, start: Start) -> None:
    host = await several(venue, start)
    first = carrier(venue, "S0")
    host.demand.set([Feed("S0", "tick"), Feed("S1", "tick")])
    await venue.wait_until(lambda: venue.connections == [first])
    host.demand.set([Feed(f"S{n}", "tick") for n in range(6)])
    await venue.wait_until(lambda: len(venue.streams) == 6)


async def test_all_of_several_connections_lost_ends_the_session(
    venue: FakeBinance, nursery: trio.Nursery
) -> None:
    host = FakeHost([Feed(f"S{n}", "tick") for n in range(4)])

    async def lose_all() -> None:
        await host.wait_confirmed(host.demand.current())
        venue.rules.refuse = (503, {}, "busy")
        venue.reset()

    nursery.start_soon(lose_all)
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK, max_streams=2)
    with pytest.raises(Unavailable):
        await broker.run(host)


async def test_connections_wait_for_the_venues_limit(venue: FakeBinance, start: Start) -> None:
    venue.rules.max_connects, venue.rules.connects_window_s = 2, 1.0
    host = FakeHost([Feed(f"S{n}", "tick") for n in range(6)])
    await start(host, attrs.evolve(QUICK, connects=2, connects_s=1.5), max_streams=2)
    await host.wait_confirmed(host.demand.current())
    assert venue.attempts == 3
    assert not venue.past


async def test_a_venue_with_a_lower_cap_than_known(venue: FakeBinance, start: Start) -> None:
    venue.rules.max_streams = 3
    feeds = [Feed(f"S{n}", "tick") for n in range(4)]
    host = FakeHost(feeds)
    await start(host)
    await host.wait_until(lambda: len(host.confirmed) + len(host.refused) == 4)
    assert len(host.confirmed) == 3
    assert "Too many subscriptions (code 4)" in next(iter(host.refused.values()))


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


async def test_announced_shutdown_loses_and_repeats_nothing(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC, BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    old = venue.connections[0]
    await push_tickers(venue, range(5))
    await venue.announce_shutdown()
    number = 5
    while old in venue.connections:
        # Both connections get each record while both are open.
        await venue.push("btcusdt@bookTicker", ticker(number))
        await venue.push("btcusdt@trade", trade(number))
        number += 1
        await trio.sleep(0.002)
    await push_tickers(venue, range(number, number + 5))
    await host.wait_until(lambda: bids(host)[-1] == number + 4.5)
    assert bids(host) == [n + 0.5 for n in range(number + 5)]
    trades = [record.trade_id for record in host.records if isinstance(record, Trade)]
    assert trades == [str(n) for n in range(5, number)]
    assert venue.attempts == 2
    assert old.client_close == (1000, "")


async def test_a_replacement_that_lags_behind_repeats_nothing(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    old = venue.connections[0]
    await venue.announce_shutdown()
    await venue.wait_until(lambda: len(venue.connections) == 2 and bool(venue.connections[1].streams))
    new = venue.connections[1]
    for number in range(3):
        await old.send_data("btcusdt@bookTicker", json.dumps(ticker(number)).encode())
    await host.wait_until(lambda: len(host.records) == 3)
    await venue.wait_until(lambda: old in venue.past)
    for number in range(5):  # only now does the new connection get what the old one delivered, and then more
        await new.send_data("btcusdt@bookTicker", json.dumps(ticker(number)).encode())
    await host.wait_until(lambda: bids(host)[-1] == 4.5)
    assert bids(host) == [n + 0.5 for n in range(5)]


async def test_what_the_old_connection_reads_once_it_is_dismissed_is_left_to_the_new_one(
    venue: FakeBinance, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that has just ended is not undone by the dismissal."""
    receive, dismiss, dismissed = WebSocket.receive, Link.dismiss, trio.Event()
    first: list[WebSocket] = []

    async def receive_all_the_same(websocket: WebSocket) -> list[bytes]:
        if not first:
            first.append(websocket)
        with trio.CancelScope(shield=websocket is first[0]):
            return await receive(websocket)

    def note(link: Link) -> dict[Feed, int]:
        dismissed.set()
        return dismiss(link)

    monkeypatch.setattr(WebSocket, "receive", receive_all_the_same)
    monkeypatch.setattr(Link, "dismiss", note)
    host = FakeHost([BTC, BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC, BTC_TRADES])
    old = venue.connections[0]
    await venue.announce_shutdown()
    await dismissed.wait()
    new = venue.connections[1]
    await old.send_data("btcusdt@trade", json.dumps(trade(0)).encode())
    await venue.wait_until(lambda: old in venue.past)
    for number in range(2):
        await new.send_data("btcusdt@trade", json.dumps(trade(number)).encode())
    await host.wait_until(lambda: any(isinstance(one, Trade) and one.trade_id == "1" for one in host.records))
    assert [one.trade_id for one in host.records if isinstance(one, Trade)] == ["0", "1"]


async def test_the_old_connection_stays_in_charge_until_the_new_one_is_subscribed(
    venue: FakeBinance, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_binance.link._REPLY_S", 0.4)
    host = FakeHost([BTC])
    await start(host, Timing(lifetime_s=3600.0, overlap_s=0.0, retry_s=0.05))
    await host.wait_confirmed([BTC])
    old = venue.connections[0]
    venue.rules.answer_requests = False  # no replacement gets what it asks for
    await venue.announce_shutdown()
    await venue.wait_until(lambda: venue.attempts >= 3)
    assert old in venue.connections
    await old.send_data("btcusdt@bookTicker", json.dumps(ticker(1)).encode())
    await host.wait_records(1)
    venue.rules.answer_requests = True
    await venue.wait_until(lambda: old in venue.past)
    await push_tickers(venue, range(2, 4))
    await host.wait_records(3)
    assert bids(host) == [1.5, 2.5, 3.5]


async def test_the_old_connection_delivers_on_for_the_overlap(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host, Timing(lifetime_s=3600.0, overlap_s=0.6, retry_s=0.05))
    await host.wait_confirmed([BTC])
    old = venue.connections[0]
    await venue.announce_shutdown()
    await venue.wait_until(lambda: len(venue.connections) == 2 and bool(venue.connections[1].streams))
    subscribed = trio.current_time()
    await old.send_data("btcusdt@bookTicker", json.dumps(ticker(1)).encode())
    await host.wait_records(1)
    await venue.wait_until(lambda: old in venue.past)
    assert trio.current_time() - subscribed > 0.3  # less than the overlap, for a busy machine


async def test_both_connections_lost_at_once_ends_the_session(
    venue: FakeBinance, nursery: trio.Nursery
) -> None:
    host = FakeHost([BTC])

    async def lose_both() -> None:
        await host.wait_confirmed([BTC])
        await venue.announce_shutdown()
        await venue.wait_until(lambda: len(venue.connections) == 2 and bool(venue.connections[1].streams))
        old, new = venue.connections
        new.reset()
        old.reset()

    nursery.start_soon(lose_both)
    with pytest.raises(Unavailable, match="connection lost"):
        await run(venue, host)


async def test_shutdown_without_lead_time(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    old = venue.connections[0]
    await venue.announce_shutdown()
    await old.close(1001, "going away")
    await venue.wait_until(lambda: old in venue.past and bool(venue.streams))
    await push_tickers(venue, range(3))
    assert len(await host.wait_records(3)) == 3


async def test_a_replacement_that_is_refused_is_tried_again_while_the_old_one_lives(
    venue: FakeBinance, start: Start
) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    venue.rules.refuse = (503, {}, "busy")
    await venue.announce_shutdown()
    await venue.wait_until(lambda: venue.attempts >= 4)
    await push_tickers(venue, range(3))
    await host.wait_records(3)
    venue.rules.refuse = None
    await venue.wait_until(lambda: len(venue.past) == 1)
    await venue.wait_subscribed("btcusdt@bookTicker")
    await push_tickers(venue, range(3, 6))
    await host.wait_records(6)
    assert bids(host) == [n + 0.5 for n in range(6)]


async def test_an_old_connection_is_replaced_before_the_venue_cuts_it(
    venue: FakeBinance, start: Start
) -> None:
    host = FakeHost([BTC])
    await start(host, Timing(lifetime_s=0.2, overlap_s=0.05, retry_s=0.05))
    await venue.wait_until(lambda: len(venue.past) >= 2)
    assert all(connection.closed_by is None for connection in venue.past)


async def run(venue: FakeBinance, host: FakeHost, **settings: object) -> None:
    addresses = {"url": venue.url, "rest_url": venue.rest_url}
    config = BinanceConfig(**(addresses | settings))  # type: ignore[arg-type]
    await BinanceBroker(config, QUICK).run(host)


async def test_the_daily_close_ends_a_session_normally(venue: FakeBinance) -> None:
    venue.rules.lifetime_s = 0.1
    await run(venue, FakeHost([BTC]))


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (451, Rejected, "does not serve this location.*data-stream.binance.vision"),
        (403, Unavailable, "firewall blocks this address"),
        (429, Unavailable, "too many requests.*requested pause: 9 s"),
        (418, Unavailable, "banned for a while.*requested pause: 9 s"),
        (503, Unavailable, ""),
    ],
)
async def test_refused_connections(
    venue: FakeBinance, status: int, error: type[Exception], told: str
) -> None:
    venue.rules.refuse = (status, {"Retry-After": "9"}, '{"msg":"restricted location"}')
    with pytest.raises(error, match=f"HTTP {status}.*restricted location.*{told}") as caught:
        await run(venue, FakeHost())
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after_s == 9


async def test_a_close_for_cause_is_unavailable(venue: FakeBinance, nursery: trio.Nursery) -> None:
    host = FakeHost([BTC])

    async def kick() -> None:
        await host.wait_confirmed([BTC])
        await venue.connections[0].close(1008, "Pong timeout")

    nursery.start_soon(kick)
    with pytest.raises(Unavailable, match="1008 Pong timeout"):
        await run(venue, host)


async def test_reset_is_unavailable(venue: FakeBinance, nursery: trio.Nursery) -> None:
    host = FakeHost([BTC])

    async def kick() -> None:
        await host.wait_confirmed([BTC])
        await venue.connections[0].send_raw(b"\x81\x7e\x01\x00{")
        venue.connections[0].reset()

    nursery.start_soon(kick)
    with pytest.raises(Unavailable, match="connection lost"):
        await run(venue, host)


async def test_silence_is_unavailable(venue: FakeBinance) -> None:
    venue.rules.answer_pings = False
    with pytest.raises(Unavailable, match="nothing received for 1 s"):
        await run(venue, FakeHost(), silence_s=1.0)


async def test_no_reply_to_a_request_is_unavailable(
    venue: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_binance.link._REPLY_S", 0.1)
    venue.rules.answer_requests = False
    with pytest.raises(Unavailable, match="no reply to a request"):
        await run(venue, FakeHost([BTC]))


async def test_symbols_are_checked_where_the_list_is_known(venue: FakeBinance, start: Start) -> None:
    venue.instruments = {"BTCUSDT": ("TRADING", "BTC", "USDT"), "ETHUSDT": ("BREAK", "ETH", "USDT")}
    host = FakeHost([BTC, ETH])
    await start(host, rest_url=venue.rest_url)
    await host.wait_confirmed([BTC])
    await host.wait_until(lambda: bool(host.refused))
    assert host.refused == {ETH: "not traded on Binance now"}
    assert host.table is not None
    assert [instrument.symbol for instrument in host.table] == ["BTCUSDT"]
    assert (host.table[0].base, host.table[0].quote) == ("BTC", "USDT")


async def test_a_pause_of_trading_ends_no_subscription(
    venue: FakeBinance, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_binance.symbols._REFRESH_S", 0.05)
    venue.instruments = {symbol: ("TRADING", symbol[:3], "USDT") for symbol in ("BTCUSDT", "ETHUSDT")}
    host = FakeHost([BTC, ETH])
    await start(host, rest_url=venue.rest_url)
    await host.wait_confirmed([BTC, ETH])
    venue.instruments["BTCUSDT"] = ("BREAK", "BTC", "USDT")
    del venue.instruments["ETHUSDT"]
    await host.wait_until(lambda: host.table is not None and len(host.table) == 1)
    assert [instrument.symbol for instrument in host.table or ()] == ["BTCUSDT"]
    await push_tickers(venue, range(3))
    await host.wait_records(3)
    assert BTC not in host.refused


async def test_a_hole_between_two_connections_is_said(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    await push_tickers(venue, range(3))
    await host.wait_records(3)
    old = venue.connections[0]
    venue.rules.refuse = (503, {}, "busy")  # no replacement in time
    await venue.announce_shutdown()
    await venue.wait_until(lambda: venue.attempts >= 2)
    await old.close(1001, "going away")
    venue.rules.refuse = None
    await venue.wait_until(lambda: old in venue.past and bool(venue.streams))
    await push_tickers(venue, range(7, 9))
    await host.wait_records(5)
    assert host.gaps == ["disconnected"]


async def test_a_replacement_in_time_leaves_no_hole(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC])
    await start(host)
    await host.wait_confirmed([BTC])
    old = venue.connections[0]
    await venue.announce_shutdown()
    await venue.wait_until(lambda: old in venue.past)
    await push_tickers(venue, range(3))
    await host.wait_records(3)
    assert host.gaps == []


async def test_a_loss_long_after_a_refusal_ends_the_session(
    venue: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_binance.link._BLAME_S", 0.2)
    venue.rules.max_streams = 1
    host = FakeHost([BTC])

    async def refuse_then_reset() -> None:
        await host.wait_confirmed([BTC])
        host.demand.set([BTC, ETH])
        await host.wait_until(lambda: ETH in host.refused)
        await trio.sleep(0.4)  # past the time in which a loss is put down to the refusal
        venue.connections[0].reset()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse_then_reset)
        with pytest.raises(Unavailable):
            await run(venue, host)


@pytest.mark.parametrize("status", [429, 418, 403, 500])
async def test_prices_flow_though_the_list_is_unavailable(
    venue: FakeBinance, start: Start, status: int
) -> None:
    venue.rules.rest_refuse = (status, {}, "busy")
    await prices_flow(venue, start, FakeHost([BTC]))


async def test_prices_flow_though_the_list_is_nonsense(venue: FakeBinance, start: Start) -> None:
    venue.exchange_info = b"<html>"
    await prices_flow(venue, start, FakeHost([BTC]))


async def test_prices_do_not_wait_for_a_list_that_is_slow(venue: FakeBinance, start: Start) -> None:
    venue.rules.rest_delay_s = 30.0
    before = trio.current_time()
    await prices_flow(venue, start, FakeHost([BTC]))
    assert trio.current_time() - before < 5


async def prices_flow(venue: FakeBinance, start: Start, host: FakeHost) -> None:
    await start(host)
    await venue.wait_subscribed("btcusdt@bookTicker")
    await push_tickers(venue, range(1))
    await host.wait_records(1)
    assert host.table is None
    assert not host.confirmed


async def test_the_venues_ack_proves_nothing(venue: FakeBinance, start: Start) -> None:
    """It accepts any name that is well formed, so without the list a feed is served once it has a record."""
    gone = Feed("NOSUCH", "tick")
    venue.rules.rest_delay_s = 0.5
    host = FakeHost([BTC, gone])
    await start(host)
    await venue.wait_subscribed("btcusdt@bookTicker", "nosuch@bookTicker")
    await venue.connections[0].send_ping()
    await venue.wait_until(lambda: bool(venue.connections[0].pongs))  # the ack has come before the ping
    assert not host.confirmed
    await host.wait_confirmed([BTC])
    await host.wait_until(lambda: bool(host.refused))
    assert host.refused == {gone: "not traded on Binance now"}
    await venue.wait_until(lambda: venue.streams == {"btcusdt@bookTicker"})


async def test_without_rest_nothing_is_confirmed(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC, BTC_FULL])
    await start(host, rest_url=None)
    await venue.wait_subscribed("btcusdt@bookTicker")
    await push_tickers(venue, range(1))
    await host.wait_records(1)
    assert not host.confirmed
    assert not venue.requests
    assert host.refused == {BTC_FULL: "a full order book needs the REST API: set `rest_url`"}


async def test_an_address_of_the_operators_own_has_no_list_by_itself(
    venue: FakeBinance, start: Start
) -> None:
    await start(FakeHost([BTC]), rest_url="auto")
    await venue.wait_subscribed("btcusdt@bookTicker")
    assert not venue.requests


NEW = "币安人生USDT"


async def test_a_symbol_outside_ascii_on_every_entrance(venue: FakeBinance, start: Start) -> None:
    feeds = [
        Feed(NEW, "tick"),
        Feed(NEW, "trade"),
        Feed(NEW, "orderbook", "25"),
        Feed(NEW, "orderbook", "full"),
    ]
    host = FakeHost(feeds)
    broker = await start(host)
    await host.wait_confirmed(feeds)
    for _ in range(20):
        await venue.step(NEW)
    (made,) = await venue.trade(NEW)
    await host.wait_until(
        lambda: any(isinstance(r, Trade) and r.trade_id == str(made.number) for r in host.records)
    )
    await host.wait_until(
        lambda: (
            {(type(r), getattr(r, "depth", "")) for r in host.records}
            == {(Tick, ""), (Trade, ""), (OrderBook, "25"), (OrderBook, "full")}
        )
    )
    assert {record.symbol for record in host.records} == {NEW}
    past = [
        batch async for batch in broker.backfill(feeds[1], made.time_ms * 1000, made.time_ms * 1000 + 1000)
    ]
    assert str(made.number) in {trade.trade_id for batch in past for trade in batch}


async def test_times_are_asked_for_in_microseconds(venue: FakeBinance, start: Start) -> None:
    host = FakeHost([BTC_TRADES])
    await start(host)
    await host.wait_confirmed([BTC_TRADES])
    assert venue.connections[0].client.target == "/stream?timeUnit=MICROSECOND"
    text = json.dumps({"stream": "btcusdt@trade", "data": trade(1) | {"T": 1672515782136789}})
    await venue.connections[0].send_text(text)
    (record,) = await host.wait_records(1)
    assert record.time_us == 1672515782136789


async def test_a_wrong_rest_address_is_said(venue: FakeBinance) -> None:
    with pytest.raises(Rejected, match="HTTP 404"):
        await run(venue, FakeHost(), rest_url=f"{venue.rest_url}/api/wrong")


async def test_a_session_ends_at_once_when_cancelled(venue: FakeBinance) -> None:
    host = FakeHost([BTC])
    async with trio.open_nursery() as nursery:
        broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK)
        await nursery.start(functools.partial(broker.run, host))
        await host.wait_confirmed([BTC])
        before = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 1
    await venue.wait_until(lambda: bool(venue.past))
    assert venue.past[0].client_close == (1000, "")


async def test_sessions_one_after_the_other_tell_the_host_again(venue: FakeBinance) -> None:
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK)
    for _ in range(2):
        host = FakeHost([BTC, Feed("B@D", "tick")])
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(broker.run, host))
            await host.wait_confirmed([BTC])
            assert host.refused.keys() == {Feed("B@D", "tick")}
            nursery.cancel_scope.cancel()


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


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda venue: venue.disconnect(1008, "Pong timeout"), "1008 Pong timeout"),
        (FakeBinance.hang_up, "without a close frame"),
        (FakeBinance.reset_in_frame, "connection lost"),
        (FakeBinance.go_dark, "nothing received for 1 s"),
    ],
)
async def test_each_end_of_a_connection(
    venue: FakeBinance, nursery: trio.Nursery, end: Callable[[FakeBinance], None], told: str
) -> None:
    host = FakeHost([BTC])

    async def act() -> None:
        await host.wait_confirmed([BTC])
        end(venue)

    nursery.start_soon(act)
    with pytest.raises(Unavailable, match=told):
        await run(venue, host, silence_s=1.0)


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
