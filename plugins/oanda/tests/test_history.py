"""Candles in place of ticks of the past."""

from __future__ import annotations

import pytest

from mdserver.errors import Rejected, Unavailable
from mdserver.model import Candle, Feed
from mdserver.plugin import BrokerHistory
from mdserver.testing.http_venue import HttpFault
from mdserver.testing.oanda import FakeOanda
from mdserver_oanda import OandaBroker, OandaConfig

MINUTE_US = 60_000_000
NOW_US = (1_700_000_000_000_000 // MINUTE_US + 1) * MINUTE_US + 30_000_000
EURUSD = Feed("EURUSD", "tick")


@pytest.fixture
def broker(venue: FakeOanda) -> OandaBroker:
    venue.clock_ns = lambda: NOW_US * 1000
    return OandaBroker(OandaConfig(venue.account_id, venue.api_key, venue.url, venue.rest_url))


async def taken(broker: OandaBroker, from_us: int, to_us: int) -> list[Candle]:
    found: list[Candle] = []
    try:
        async for batch in broker.backfill(EURUSD, from_us, to_us):
            found += batch
    except Rejected as error:
        assert str(error) == "OANDA gives candles in place of ticks of the past"  # noqa: PT017
        return found
    pytest.fail("nobody said that the ticks stay missing")


async def test_whole_minutes_alone_and_final_ones(venue: FakeOanda, broker: OandaBroker) -> None:
    assert isinstance(broker, BrokerHistory)
    first_us, last_us = (
        NOW_US - 8_000 * MINUTE_US,
        NOW_US + 5 * MINUTE_US,
    )  # two requests; the last minute forms yet
    candles = await taken(broker, first_us, last_us)
    made = venue.instruments["EUR_USD"].candles(60, first_us * 1000, NOW_US * 1000, NOW_US * 1000)
    expected = [one for one in made if one.complete]
    assert len(expected) == len(made) - 1 > 5_000
    assert [(c.time_us * 1000, c.count) for c in candles] == [(one.time_ns, one.volume) for one in expected]
    assert [c.close for c in candles] == [one.close / 1e5 for one in expected]
    assert {(c.symbol, c.interval, c.volume, c.closed) for c in candles} == {("EURUSD", "1m", 0.0, True)}


async def test_a_gap_without_a_whole_minute_has_none(venue: FakeOanda, broker: OandaBroker) -> None:
    assert await taken(broker, NOW_US - MINUTE_US, NOW_US - MINUTE_US // 3) == []
    assert not any("candles" in request.path for request in venue.requests)


async def test_what_cannot_be_had_and_what_may_be_later(venue: FakeOanda, broker: OandaBroker) -> None:
    with pytest.raises(Rejected, match="no history of trade records"):
        await anext(broker.backfill(Feed("EURUSD", "trade"), 0, NOW_US))
    with pytest.raises(Rejected, match="the OANDA account has no NOSUCH"):
        await anext(broker.backfill(Feed("NOSUCH", "tick"), 0, NOW_US))
    venue.fail(HttpFault("status", 503))
    with pytest.raises(Unavailable, match="HTTP 503"):
        await anext(broker.backfill(EURUSD, 0, NOW_US))
