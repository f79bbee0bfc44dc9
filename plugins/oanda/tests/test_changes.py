"""Another list of instruments takes another stream: nothing may be lost, come twice or out of order."""

import functools
from collections.abc import Iterable

import pytest
import trio
import trio.testing

from mdserver.model import Feed
from mdserver.testing.host import FakeHost
from mdserver.testing.http_venue import HttpFault
from mdserver.testing.oanda import FakeOanda, FakeQuote
from mdserver_oanda.broker import Timing

from .conftest import Start, make_broker
from .test_broker import EUR, GBP, NS, bids, numbered, quote, session_end

JPY = Feed("USDJPY", "tick")


async def test_demand_grows_shrinks_and_returns(venue: FakeOanda, start: Start) -> None:
    host = FakeHost()
    await start(host)
    assert venue.streams == []
    host.demand.set([EUR])
    await host.wait_confirmed([EUR])
    host.demand.set([EUR, GBP])
    await host.wait_confirmed([EUR, GBP])
    await venue.wait_streams(1, "EUR_USD", "GBP_USD")
    host.demand.set([GBP])
    await venue.wait_until(lambda: [set(s.names) for s in venue.streams] == [{"GBP_USD"}])
    host.confirmed.clear()
    host.demand.set([EUR, GBP])
    await host.wait_confirmed([EUR, GBP])
    host.demand.set([])
    await venue.wait_streams(0)
    host.demand.set([JPY])
    await host.wait_confirmed([JPY])
    await venue.push("USD_JPY", quote(150))
    await host.wait_until(lambda: 150.25 in bids(host, "USDJPY"))
    assert host.gaps == []


async def test_a_feed_that_returns_before_anything_changed_is_confirmed_again(
    venue: FakeOanda, start: Start
) -> None:
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.5))
    await host.wait_confirmed([EUR])
    host.demand.set([])
    await trio.testing.wait_all_tasks_blocked()
    host.confirmed.clear()
    host.demand.set([EUR])
    await host.wait_confirmed([EUR])
    assert len(venue.streams) == 1


async def test_ten_changes_lose_nothing_and_repeat_nothing(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(0)
    host = FakeHost([EUR])
    await start(host)
    await host.wait_confirmed([EUR])
    pushed = 0
    changing = True

    async def push() -> None:
        nonlocal pushed
        while changing:
            pushed += 1
            await venue.push("EUR_USD", quote(pushed))
            await trio.sleep(0.004)

    async def change(others: list[Feed], names: set[str]) -> None:
        host.demand.set([EUR, *others])
        await venue.wait_until(lambda: [set(s.names) for s in venue.streams] == [names])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        for _ in range(5):
            await change([GBP, JPY], {"EUR_USD", "GBP_USD", "USD_JPY"})
            await change([], {"EUR_USD"})
        changing = False  # no cancellation: it would cut a price off that counts as pushed
    await venue.push("EUR_USD", quote(pushed + 1))
    await host.wait_until(lambda: bids(host)[-1] == pushed + 1.25)
    assert bids(host) == numbered(range(pushed + 2))
    assert pushed > 50
    assert host.gaps == []


async def test_what_is_new_does_not_wait_for_the_change_to_be_over(venue: FakeOanda, start: Start) -> None:
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, overlap_s=60.0))
    host.demand.set([EUR, GBP])
    await host.wait_confirmed([GBP])
    await venue.push("GBP_USD", quote(5))
    await host.wait_until(lambda: 5.25 in bids(host, "GBPUSD"))
    assert len(venue.streams) == 2


async def test_two_prices_of_one_nanosecond_survive_a_change(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, overlap_s=0.3))
    [old] = await venue.wait_streams(1)
    host.demand.set([EUR, GBP])
    await venue.wait_streams(2)
    twins = [FakeQuote([(f"{n}", 1)], [(f"{n}.5", 1)], time_ns=NS + 10**9) for n in (7, 8)]
    await venue.push("EUR_USD", twins[0])
    old.silence_prices()  # the second reaches only the new stream
    await venue.push("EUR_USD", twins[1])
    await host.wait_until(lambda: 8.0 in bids(host))
    assert bids(host) == [1.25, 7.0, 8.0]


async def test_a_lagging_new_stream_repeats_nothing(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, overlap_s=0.3))
    [old] = await venue.wait_streams(1)
    host.demand.set([EUR, GBP])
    new = (await venue.wait_streams(2))[1]
    new.silence_prices()
    for number in (10, 11):
        await venue.push("EUR_USD", quote(number))
    assert await venue.wait_streams(1) == [new]
    assert old.sent[-1][1] == quote(11).time_ns
    new.unmute()
    for number in (10, 11, 12):  # what the old one brought, late, and something new
        await new.send_price("EUR_USD", quote(number))
    await host.wait_until(lambda: 12.25 in bids(host))
    assert bids(host) == [1.25, 10.25, 11.25, 12.25]


async def test_a_new_session_does_not_repeat_the_last_price(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR])

    async def end() -> None:
        await host.wait_records(1)
        [stream] = await venue.wait_streams(1)
        await stream.reset()

    await session_end(venue, host, end)
    await start(host)
    await venue.wait_streams(1)
    await venue.push("EUR_USD", quote(2))
    await host.wait_records(2)
    assert bids(host) == numbered(range(1, 3))
    assert host.ignored_kinds["repeated price"] == 1


async def test_a_price_from_the_future_blocks_nothing(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR], expected_faults=["time"])
    await start(host)
    await venue.push("EUR_USD", FakeQuote([("9", 1)], [("10", 1)], time_ns=2**63 - 1))
    await host.wait_until(lambda: 9.0 in bids(host))
    venue.instruments["EUR_USD"].quote = quote(2)
    host.demand.set([EUR, GBP])
    await venue.wait_streams(1, "GBP_USD")
    await host.wait_until(lambda: bids(host) == [1.25, 9.0, 2.25])


async def test_an_old_stream_that_ends_during_the_change_leaves_no_hole(
    venue: FakeOanda, start: Start
) -> None:
    venue.instruments["EUR_USD"].quote = quote(0)
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, overlap_s=5.0))
    [old] = await venue.wait_streams(1)
    host.demand.set([EUR, GBP])
    await venue.wait_streams(2)
    await host.wait_until(lambda: bool(bids(host, "GBPUSD")))
    await trio.sleep(0.05)
    await venue.push("EUR_USD", quote(1))
    await old.reset()
    await venue.push("EUR_USD", quote(2))
    await host.wait_until(lambda: 2.25 in bids(host))
    assert bids(host) == numbered(range(3))
    assert host.gaps == []


async def test_a_new_stream_without_a_snapshot_cannot_prove_that_nothing_was_missed(
    venue: FakeOanda, start: Start
) -> None:
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, settle_s=5.0))
    [old] = await venue.wait_streams(1)
    venue.instruments["GBP_USD"].quote = FakeQuote(extra={"type": "NEWS"})
    host.demand.set([EUR, GBP])
    await venue.wait_streams(2)
    await old.reset()
    await host.wait_until(lambda: host.gaps == ["disconnected"])


@pytest.mark.parametrize("fault", [HttpFault("status", 429), HttpFault("reset"), HttpFault("html")], ids=str)
async def test_a_change_that_fails_is_tried_again_and_the_old_stream_goes_on(
    venue: FakeOanda, start: Start, fault: HttpFault
) -> None:
    venue.instruments["EUR_USD"].quote = quote(0)
    host = FakeHost([EUR])
    await start(host)
    await venue.wait_streams(1)
    venue.fail(fault, times=2, path="/stream")
    host.demand.set([EUR, GBP])
    await venue.push("EUR_USD", quote(1))
    await host.wait_confirmed([GBP])
    await venue.wait_streams(1, "EUR_USD", "GBP_USD")
    await venue.push("EUR_USD", quote(2))
    await host.wait_until(lambda: 2.25 in bids(host))
    assert bids(host) == numbered(range(3))
    assert host.gaps == []


async def test_a_new_stream_that_ends_at_once_costs_nothing(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(0)
    host = FakeHost([EUR])
    await start(host, Timing(connect_gap_s=0.0, gather_s=0.0, overlap_s=0.5, retry_s=0.1))
    await venue.wait_streams(1)
    host.demand.set([EUR, GBP])
    await venue.wait_streams(2)
    await venue.streams[1].reset()
    await venue.wait_streams(2)
    await venue.push("EUR_USD", quote(1))
    await venue.wait_streams(1, "GBP_USD")
    await host.wait_until(lambda: 1.25 in bids(host))
    assert bids(host) == numbered(range(2))


async def test_a_change_that_is_refused_refuses_what_was_added(venue: FakeOanda, start: Start) -> None:
    host = FakeHost([EUR, GBP])
    await start(host)
    await venue.wait_streams(1)
    venue.fail(HttpFault("status", 403, {"errorMessage": "No."}), path="/stream")
    host.demand.set([EUR, JPY])
    await host.wait_until(lambda: JPY in host.refused)
    assert "HTTP 403: No; check that api_key may" in host.refused[JPY]
    await venue.push("EUR_USD", quote(7))
    await host.wait_until(lambda: 7.25 in bids(host))
    asked = len(venue.requests)
    await trio.sleep(0.3)  # in which nothing is tried again
    assert len(venue.requests) == asked


async def test_one_that_was_taken_off_the_list_does_not_cost_the_others(
    venue: FakeOanda, start: Start
) -> None:
    host = FakeHost([EUR, JPY])
    await start(host)
    await venue.wait_streams(1)
    venue.unstreamable.add("USD_JPY")
    host.demand.set([EUR, JPY, GBP])
    await host.wait_confirmed([EUR, GBP])
    assert JPY in host.refused


async def test_a_storm_of_changes_stays_within_the_venues_limits(
    venue: FakeOanda, nursery: trio.Nursery
) -> None:
    venue.limit.most = 2
    symbols = [Feed(name.replace("_", ""), "tick") for name in venue.instruments]
    host = FakeHost([EUR])
    await nursery.start(functools.partial(make_broker(venue, Timing(overlap_s=0.05)).run, host))
    for number in range(40):
        host.demand.set(symbols[: 1 + number % len(symbols)])
        await trio.sleep(0.05)
    host.demand.set(symbols)
    await host.wait_confirmed(symbols)
    assert venue.limit.refused == 0


async def test_a_session_is_connected_once_it_streams_whatever_else_is_wanted_by_then(
    venue: FakeOanda, start: Start
) -> None:
    host = FakeHost([EUR])
    confirm = host.confirm

    def confirm_and_want_something_else(feeds: Iterable[Feed]) -> None:
        confirm(feeds)
        host.demand.set([EUR, JPY] if JPY not in host.demand.current() else [EUR, GBP])

    host.confirm = confirm_and_want_something_else  # type: ignore[method-assign]
    with trio.fail_after(30):
        await start(host)
    assert venue.streams


async def test_an_old_stream_that_was_dead_already_leaves_a_gap(venue: FakeOanda, start: Start) -> None:
    """The list changes before the silence is long enough to be noticed: what the old one missed is lost."""
    venue.instruments["EUR_USD"].quote = quote(0)
    host = FakeHost([EUR])
    await start(host, silence_s=10.0)
    [old] = await venue.wait_streams(1)
    old.mute()
    for number in (1, 2):
        await venue.push("EUR_USD", quote(number))
    host.demand.set([EUR, GBP])
    await host.wait_until(lambda: 2.25 in bids(host))
    assert bids(host) == [0.25, 2.25]
    assert host.gaps == ["silence"]
