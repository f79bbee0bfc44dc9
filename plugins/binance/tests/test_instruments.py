"""Sessions and the venue's list of instruments, against the fake venue."""

import pytest
import trio

from mdserver.model import Feed, OrderBook, Tick, Trade
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost

from .sessions import BTC, BTC_FULL, ETH, Start, push_tickers


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
