"""The REST API over real sockets: candles page by page, and what they are refused for."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.net import open_http
from mdserver.testing.http_venue import HttpFault
from mdserver.testing.oanda import FakeOanda
from mdserver_oanda import OandaConfig
from mdserver_oanda.account import Account, auth_headers

S = 1_000_000_000
NOW_NS = 1_700_000_000 * S + 2_500_000_001
START_NS = NOW_NS - 3000 * S


@dataclass
class Desk:
    venue: FakeOanda
    account: Account


@pytest.fixture
async def desk(venue: FakeOanda) -> AsyncIterator[Desk]:
    venue.clock_ns = lambda: NOW_NS
    config = OandaConfig(venue.account_id, venue.api_key, venue.url, venue.rest_url)
    async with open_http(headers=auth_headers(config)) as http:
        yield Desk(venue, Account(http, config))


def asked(venue: FakeOanda) -> list[tuple[str, str]]:
    queries = [request.query for request in venue.requests if "candles" in request.path]
    return [(query["from"], query["includeFirst"]) for query in queries]


@pytest.mark.parametrize("page", [1, 7, 100, 5000])
async def test_candles_are_the_same_on_pages_of_any_size(desk: Desk, page: int) -> None:
    expected = desk.venue.instruments["USD_JPY"].candles(5, START_NS, NOW_NS, NOW_NS)
    candles = await desk.account.candles("USD_JPY", "S5", START_NS, NOW_NS, page=page)
    assert [c.time_ns for c in candles] == [c.time_ns for c in expected]
    assert [c.complete for c in candles] == [True] * (len(expected) - 1) + [False]
    for got, made in zip(candles, expected, strict=True):
        assert got.mid is not None
        assert got.bid is not None
        assert got.ask is not None
        assert (got.mid.o, got.mid.h, got.mid.l, got.mid.c) == (
            made.open / 1000,
            made.high / 1000,
            made.low / 1000,
            made.close / 1000,
        )
        assert got.bid.c < got.mid.c < got.ask.c
        assert got.volume == made.volume
    assert [first for _, first in asked(desk.venue)][:3] == ["true", "false", "false"][
        : len(asked(desk.venue))
    ]


async def test_only_what_opens_within_the_range(desk: Desk) -> None:
    """The venue's first candle is the one that contains the start; it opened before."""
    begin = START_NS // (60 * S) * 60 * S
    candles = await desk.account.candles("EUR_USD", "M1", begin + 1, begin + 600 * S, price="M")
    assert candles
    assert all(begin + 1 <= candle.time_ns < begin + 600 * S for candle in candles)
    assert candles[0].bid is None


async def test_a_range_without_candles(desk: Desk) -> None:
    assert await desk.account.candles("EUR_USD", "M1", NOW_NS + 3600 * S, NOW_NS + 7200 * S) == []


async def test_a_venue_that_gives_the_same_page_again_is_found_out(desk: Desk) -> None:
    row = {"time": "1699999000.000000000", "complete": True, "volume": 1}
    page = {"instrument": "EUR_USD", "granularity": "S5", "candles": [row]}
    desk.venue.fail(HttpFault("status", 200, page), path="candles")
    with pytest.raises(BadMessage, match="found an earlier one"):
        await desk.account.candles("EUR_USD", "S5", START_NS, NOW_NS, page=1)


async def test_what_candles_are_refused_for(desk: Desk) -> None:
    with pytest.raises(Rejected, match="HTTP 400: Invalid value specified for 'granularity'"):
        await desk.account.candles("EUR_USD", "X7", START_NS, NOW_NS)
    desk.venue.fail(HttpFault("status", 500), times=1)
    with pytest.raises(Unavailable, match="HTTP 500"):
        await desk.account.candles("EUR_USD", "S5", START_NS, NOW_NS)
    desk.venue.fail(HttpFault("garbage"), times=1)
    with pytest.raises(Unavailable):
        await desk.account.candles("EUR_USD", "S5", START_NS, NOW_NS)


async def test_pages_come_over_one_connection(desk: Desk) -> None:
    desk.venue.limit.most = 1
    await desk.account.candles("EUR_USD", "S5", START_NS, NOW_NS, page=50)
    assert desk.venue.limit.refused == 0


async def test_which_instruments_have_prices(desk: Desk) -> None:
    assert await desk.account.refusal_of("EUR_USD") is None
    assert await desk.account.refusal_of("NO_SUCH") == (
        "refused by OANDA: Invalid value specified for 'instruments'"
    )
    desk.venue.api_key = "another"
    with pytest.raises(Rejected, match=r"HTTP 401: .*check api_key"):
        await desk.account.refusal_of("EUR_USD")
