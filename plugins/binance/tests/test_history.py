"""Trades of the past: pages by hand, and from the fake venue's REST."""

import pytest

from mdserver.errors import Rejected, Unavailable
from mdserver.model import Feed, Trade
from mdserver.testing.binance import FakeBinance
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_binance.codec import Numbered
from mdserver_binance.history import PastTrades

TRADES = Feed("BTCUSDT", "trade")


def rows(*numbers: int) -> list[Numbered]:
    """Trades of which each is at ten times its number."""
    return [Numbered(n, n, Trade("BTCUSDT", n * 10, 1.0, 1.0, "buy", str(n))) for n in numbers]


def ids(trades: list[Trade]) -> list[str | None]:
    return [trade.trade_id for trade in trades]


def test_pages_that_overlap_give_each_trade_once() -> None:
    pages = PastTrades(5, 60, 1000, rows=3)
    assert ids(pages.take(rows(5, 6, 7))) == ["6", "7"]  # 5 is before the time asked for
    assert pages.next_number == 8
    assert ids(pages.take(rows(7, 8, 9))) == ["8", "9"]
    assert not pages.done
    assert ids(pages.take(rows(9, 10))) == ["10"]
    assert pages.done  # a page that is not full is the last one


def test_the_end_of_the_time_ends_the_pages() -> None:
    pages = PastTrades(1, 0, 20, rows=3)
    assert ids(pages.take(rows(1, 2, 3))) == ["1", "2"]
    assert pages.done


def test_a_page_with_nothing_new_ends_them() -> None:
    pages = PastTrades(1, 0, 1000, rows=2)
    pages.take(rows(1, 2))
    assert pages.take(rows(1, 2)) == []
    assert pages.done


def test_no_time_at_all() -> None:
    assert PastTrades(1, 10, 9).done


def broker(venue: FakeBinance, **settings: object) -> BinanceBroker:
    return BinanceBroker(BinanceConfig(url=venue.url, **({"rest_url": venue.rest_url} | settings)))  # type: ignore[arg-type]


async def fetched(broker: BinanceBroker, from_us: int, to_us: int, feed: Feed = TRADES) -> list[list[Trade]]:
    return [batch async for batch in broker.backfill(feed, from_us, to_us)]


def span(venue: FakeBinance, first: int, last: int) -> tuple[int, int]:
    trades = venue.market("BTCUSDT").trades
    return trades[first].time_ms * 1000, trades[last].time_ms * 1000


async def test_single_trades_by_their_numbers(venue: FakeBinance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver_binance.history.PAGE_ROWS", 50)
    monkeypatch.setattr(PastTrades.__init__, "__kwdefaults__", {"rows": 50})
    from_us, to_us = span(venue, 100, 400)
    batches = await fetched(broker(venue), from_us, to_us)
    made = [t for t in venue.market("BTCUSDT").trades if from_us <= t.time_ms * 1000 <= to_us]
    assert [(t.trade_id, t.time_us, t.price, t.size, t.side) for batch in batches for t in batch] == [
        (
            str(t.number),
            t.time_ms * 1000,
            float(f"{t.price / 100:.2f}"),
            float(f"{t.size / 1e8:.8f}"),
            "sell" if t.buyer_is_maker else "buy",
        )
        for t in made
    ]
    assert len(batches) > 5
    assert {r.path for r in venue.requests} == {"/api/v3/aggTrades", "/api/v3/historicalTrades"}


async def test_aggregates_where_the_feed_has_them(venue: FakeBinance) -> None:
    from_us, to_us = span(venue, 100, 400)
    batches = await fetched(broker(venue, trades="aggTrade"), from_us, to_us)
    made = [t for t in venue.market("BTCUSDT").trades if from_us <= t.time_ms * 1000 <= to_us]
    assert ids([t for batch in batches for t in batch]) == [
        str(number) for number in dict.fromkeys(t.aggregate for t in made)
    ]
    assert {r.path for r in venue.requests} == {"/api/v3/aggTrades"}


async def test_where_there_is_no_history_the_newest_have_to_do(venue: FakeBinance) -> None:
    venue.rules.without = frozenset({"/api/v3/historicalTrades"})
    from_us, to_us = span(venue, -300, -1)
    batches = await fetched(broker(venue), from_us, to_us)
    made = [t for t in venue.market("BTCUSDT").trades if t.time_ms * 1000 >= from_us]
    assert ids([t for batch in batches for t in batch]) == [str(t.number) for t in made]
    with pytest.raises(Rejected, match=r"of its 1,000 newest trades the first is .*`trades: aggTrade`"):
        await fetched(broker(venue), *span(venue, 0, -1))


async def test_what_cannot_be_had(venue: FakeBinance) -> None:
    with pytest.raises(Rejected, match="no history of tick records"):
        await fetched(broker(venue), 0, 1, Feed("BTCUSDT", "tick"))
    with pytest.raises(Rejected, match="set `rest_url`"):
        await fetched(broker(venue, rest_url=None), 0, 1)
    with pytest.raises(Rejected, match="Invalid symbol"):
        await fetched(broker(venue), 0, 1, Feed("NOSUCH", "trade"))
    venue.rules.rest_refuse = (503, {}, "busy")
    with pytest.raises(Unavailable, match="HTTP 503"):
        await fetched(broker(venue), 0, 1)


async def test_times_without_trades(venue: FakeBinance) -> None:
    newest = venue.market("BTCUSDT").trades[-1].time_ms * 1000
    assert await fetched(broker(venue), newest + 10_000_000, newest + 20_000_000) == []
    assert await fetched(broker(venue), newest, newest - 1) == []
