"""What the venue allows: pure rules with a clock of numbers, and REST against the fake venue."""

from collections.abc import AsyncIterator

import pytest
import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import Feed
from mdserver.net import HttpRefused, HttpUnavailable, open_http
from mdserver.testing.binance import FakeBinance
from mdserver_binance.limits import ConnectLimit, WeightBudget
from mdserver_binance.refusals import explained
from mdserver_binance.rest import HEADERS, Rest
from mdserver_binance.shares import MAX_CONNECTIONS, Share, spread


def test_weight_of_a_minute() -> None:
    budget = WeightBudget()
    budget.limit = 100
    budget.spend(1000.0, 40)
    assert budget.wait_s(1001.0, 10, 0.5) == 0
    assert budget.wait_s(1001.0, 11, 0.5) == 59
    assert budget.wait_s(1001.0, 60, 1.0) == 0
    assert budget.wait_s(1060.0, 60, 0.5) == 0


def test_the_venues_count_goes_before_ours() -> None:
    budget = WeightBudget()
    budget.limit = 100
    budget.spend(1000.0, 5)
    budget.note_used(1001.0, 90)  # others at this address
    assert budget.wait_s(1002.0, 20, 1.0) == 58
    budget.note_used(1030.0, 3)  # the venue's minute began anew
    assert budget.wait_s(1031.0, 20, 1.0) == 0
    assert budget.wait_s(1031.0, 98, 1.0) == 59


def test_nothing_is_sent_in_a_pause_that_the_venue_asked_for() -> None:
    budget = WeightBudget()
    budget.block(1000.0, 30.0)
    budget.block(1000.0, 10.0)
    assert budget.wait_s(1010.0, 1, 1.0) == 20
    assert budget.wait_s(1030.0, 1, 1.0) == 0


def test_connections_of_five_minutes() -> None:
    limit = ConnectLimit(2, 300.0)
    for now in (0.0, 100.0):
        assert limit.wait_s(now) == 0
        limit.note(now)
    assert limit.wait_s(150.0) == 150
    assert limit.wait_s(300.0) == 0


def feeds(*numbers: int) -> frozenset[Feed]:
    return frozenset(Feed(f"S{number:03}", "tick") for number in numbers)


def test_feeds_stay_where_they_are_and_room_is_used() -> None:
    shares, none = spread(feeds(1, 2, 3, 4, 5), [], 2)
    assert (shares, none) == ([feeds(1, 2), feeds(3, 4), feeds(5)], frozenset())
    shares, _ = spread(feeds(2, 3, 4, 5, 6, 7), shares, 2)
    assert shares == [feeds(2, 6), feeds(3, 4), feeds(5, 7)]
    assert spread(feeds(2), shares, 2)[0] == [feeds(2)]
    assert spread(feeds(5), shares, 2)[0] == [frozenset(), frozenset(), feeds(5)]
    assert spread(frozenset(), shares, 2)[0] == [frozenset()]


def test_more_than_all_connections_carry() -> None:
    wanted = feeds(*range(MAX_CONNECTIONS + 3))
    shares, none = spread(wanted, [], 1)
    assert len(shares) == MAX_CONNECTIONS
    assert none == feeds(*range(MAX_CONNECTIONS, MAX_CONNECTIONS + 3))


def test_a_share_wakes_only_for_a_change_or_a_touch() -> None:
    share = Share()
    changed = share.next_change()
    share.set(frozenset())
    assert not changed.is_set()
    share.touch()
    assert changed.is_set()
    changed = share.next_change()
    share.set(feeds(1))
    assert changed.is_set()


def test_other_errors_are_left_as_they_are() -> None:
    for error in (
        Unavailable("x"),
        Rejected("x"),
        HttpUnavailable("x", status=500),
        HttpRefused("x", status=400, body=""),
    ):
        assert explained(error) is error
    with pytest.raises(TypeError):
        explained(BadMessage("x"))


@pytest.fixture
async def rest(venue: FakeBinance) -> AsyncIterator[tuple[Rest, WeightBudget]]:
    budget = WeightBudget()
    async with open_http(headers=HEADERS) as http:
        yield Rest(venue.rest_url, http, budget), budget


Client = tuple[Rest, WeightBudget]


async def test_the_weight_is_the_venues(venue: FakeBinance, rest: Client) -> None:
    for number in (1, 2):
        await rest[0].get("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "1000"}, weight=50)
        assert rest[1].used == venue.used_weight == 50 * number


async def test_too_much_is_said_and_the_pause_is_kept(venue: FakeBinance, rest: Client) -> None:
    venue.rules.weight_per_minute = 3
    for _ in range(3):
        await rest[0].get("/api/v3/ping", {}, weight=1)
    with pytest.raises(Unavailable, match=r"HTTP 429.*too many requests.*requested pause") as caught:
        await rest[0].get("/api/v3/ping", {}, weight=1)
    assert caught.value.retry_after_s is not None
    assert 50 < rest[1].wait_s(trio.current_time(), 1, 1.0) <= caught.value.retry_after_s
    sent = len(venue.requests)
    with trio.move_on_after(0.2):
        await rest[0].get("/api/v3/ping", {}, weight=1)
    assert len(venue.requests) == sent


async def test_a_ban_without_a_time_is_two_minutes(venue: FakeBinance, rest: Client) -> None:
    venue.rules.rest_refuse = (418, {}, "{}")
    with pytest.raises(Unavailable, match="banned for a while"):
        await rest[0].get("/api/v3/ping", {}, weight=1)
    assert rest[1].wait_s(trio.current_time(), 1, 1.0) == pytest.approx(120, abs=5)


async def test_a_refusal_and_a_web_page(venue: FakeBinance, rest: Client) -> None:
    with pytest.raises(HttpRefused, match="Invalid symbol"):
        await rest[0].get("/api/v3/depth", {"symbol": "NOSUCH"}, weight=1)
    venue.rules.rest_refuse = (200, {"Content-Type": "text/html"}, "<html>Log in</html>")
    with pytest.raises(Unavailable, match="received a web page in place of data"):
        await rest[0].get("/api/v3/ping", {}, weight=1)
    venue.rules.rest_refuse = (451, {}, '{"code":0,"msg":"restricted"}')
    with pytest.raises(HttpRefused, match=r"restricted.*does not serve this location"):
        await rest[0].get("/api/v3/ping", {}, weight=1)
