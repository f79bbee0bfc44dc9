"""Sessions whose streams need several connections, against the fake venue."""

import attrs
import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.model import Feed, Tick
from mdserver.testing.binance import FakeBinance, FakeConnection
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig

from .sessions import QUICK, Start, ticker


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
