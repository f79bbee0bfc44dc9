"""Connections that another one replaces, against the fake venue: nothing is lost and nothing repeated."""

import json

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.model import Feed, Trade
from mdserver.net.websocket import WebSocket
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver_binance.broker import Timing
from mdserver_binance.link import Link

from .sessions import BTC, BTC_TRADES, ETH, Start, bids, push_tickers, run, ticker, trade


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
