"""Trades of the past, page by page."""

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import Feed, Trade
from mdserver.net import open_http
from mdserver.plugin import BrokerHistory
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import FakeKraken
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_kraken.codec import RestPage, TradeRow
from mdserver_kraken.history import TradePages, fetch_trades

FAR_US = 10**16


def rows(*times_us: int) -> list[TradeRow]:
    return [TradeRow(n, Trade("BTCUSD", time, 1.0, 1.0, "buy", str(n))) for n, time in enumerate(times_us, 1)]


def serve(all_rows: list[TradeRow], query: dict[str, str], *, inclusive: bool) -> RestPage:
    since_ns, count = int(query["since"]), int(query["count"])
    later = [
        row
        for row in all_rows
        if (row.trade.time_us * 1000 >= since_ns if inclusive else row.trade.time_us * 1000 > since_ns)
    ]
    page = later[:count]
    return RestPage(page, page[-1].trade.time_us * 1000 if page else since_ns)


@given(
    steps=st.lists(st.sampled_from([0, 0, 0, 1, 5]), max_size=60),
    bounds=st.tuples(st.integers(0, 120), st.integers(0, 120)).map(sorted),
    inclusive=st.booleans(),
)
def test_every_trade_comes_once_whether_or_not_since_counts_itself_in(
    steps: list[int], bounds: list[int], inclusive: bool
) -> None:
    times, time = [], 10
    for step in steps:
        time += step
        times.append(time)
    all_rows = rows(*times)
    most_at_once = max((times.count(time) for time in times), default=0)
    from_us, to_us = bounds
    pages = TradePages("BTC/USD", from_us, to_us, rows=most_at_once + 2)
    got: list[Trade] = []
    for _ in range(100):
        if pages.done:
            break
        got += pages.take(serve(all_rows, pages.query(), inclusive=inclusive))
    assert pages.done
    assert got == [row.trade for row in all_rows if from_us - 1 <= row.trade.time_us <= to_us + 1]


def test_more_at_one_time_than_a_page_holds_is_said() -> None:
    all_rows = rows(5, 5, 5, 5, 6)
    pages = TradePages("BTC/USD", 0, 10, rows=3)
    pages.take(serve(all_rows, pages.query(), inclusive=True))
    with pytest.raises(BadMessage, match="a page of 3 does not get beyond its time"):
        pages.take(serve(all_rows, pages.query(), inclusive=True))


async def test_all_pages_of_a_venue(venue: FakeKraken) -> None:
    venue.rules.rest_burst = 1000
    market = venue.markets["BTC/USD"]
    made = list(market.trades)
    assert len({trade.time_ns for trade in made}) < len(made)
    first_us, last_us = made[3].time_ns // 1000 + 1, made[-4].time_ns // 1000 - 1
    got: list[list[Trade]] = []
    pages = TradePages("BTC/USD", first_us, last_us, rows=100)
    async with open_http() as http:
        got += [page async for page in fetch_trades(http, venue.rest_url, "BTCUSD", pages, pause_s=0.0)]
    wanted = {str(t.trade_id) for t in made if first_us <= t.time_ns // 1000 <= last_us}
    found = [trade.trade_id for page in got for trade in page]
    assert len(found) == len(set(found))
    assert wanted <= set(found) <= {str(t.trade_id) for t in made}
    assert len(got) > 5
    sides = {t.trade_id: t.side for t in made}
    assert all(trade.side == sides[int(trade.trade_id or "")] for page in got for trade in page)


async def test_too_many_requests_are_asked_again(venue: FakeKraken) -> None:
    venue.rules.rest_burst, venue.rules.rest_per_s = 2, 2.0
    got: list[list[Trade]] = []
    pages = TradePages("BTC/USD", 0, FAR_US, rows=300)
    async with open_http() as http:
        got += [page async for page in fetch_trades(http, venue.rest_url, "BTCUSD", pages, pause_s=0.05)]
    assert sum(map(len, got)) == len(venue.markets["BTC/USD"].trades)
    assert len(venue.requests) > len(got)


async def test_a_venue_that_goes_on_refusing_is_unavailable(venue: FakeKraken) -> None:
    venue.rules.rest_burst, venue.rules.rest_per_s = 0, 1.0
    pages = TradePages("BTC/USD", 0, FAR_US)
    async with open_http() as http:
        with pytest.raises(Unavailable, match="Too many requests"):
            await anext(fetch_trades(http, venue.rest_url, "BTCUSD", pages, pause_s=0.01))


async def test_an_unknown_pair_is_final(venue: FakeKraken) -> None:
    async with open_http() as http:
        with pytest.raises(Rejected, match="EQuery:Unknown asset pair"):
            await anext(fetch_trades(http, venue.rest_url, "X", TradePages("NO/SUCH", 0, FAR_US)))


async def test_a_broker_fetches_what_its_session_saw_listed(venue: FakeKraken, nursery: trio.Nursery) -> None:
    venue.rules.rest_burst = 100
    broker = KrakenBroker(KrakenConfig(url=venue.url, rest_url=venue.rest_url))
    assert isinstance(broker, BrokerHistory)
    with pytest.raises(Unavailable, match="list of instruments has not been received yet"):
        await anext(broker.backfill(Feed("DOGEUSD", "trade"), 0, 1))
    await nursery.start(broker.run, FakeHost())
    with pytest.raises(Rejected, match="lists no NOSUCH"):
        await anext(broker.backfill(Feed("NOSUCH", "trade"), 0, 1))
    with pytest.raises(Rejected, match="no history of tick records"):
        await anext(broker.backfill(Feed("DOGEUSD", "tick"), 0, 1))
    (first, *_) = venue.markets["DOGE/USD"].trades
    from_us = first.time_ns // 1000
    got = [page async for page in broker.backfill(Feed("DOGEUSD", "trade"), from_us, from_us)]
    assert str(first.trade_id) in [trade.trade_id for page in got for trade in page]
    assert math.isclose(got[0][0].price, first.price / 10**7)
