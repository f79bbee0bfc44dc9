"""Sessions against the fake venue, over real sockets: what is delivered, and how they end."""

import functools
import re
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from mdserver.errors import MdserverError, Rejected, Unavailable
from mdserver.model import Feed, Tick
from mdserver.testing.host import FakeHost
from mdserver.testing.http_venue import HttpFault
from mdserver.testing.oanda import FakeInstrument, FakeOanda, FakeQuote, OandaRules
from mdserver_oanda.broker import Timing

from .conftest import Start, make_broker

EUR = Feed("EURUSD", "tick")
GBP = Feed("GBPUSD", "tick")
NS = 1_700_000_000_000_000_000


def quote(number: int) -> FakeQuote:
    """Return the numbered price: its time and its bid tell which it is."""
    sides = ([(f"{number}.25", 1_000_000)], [(f"{number}.5", 500_000)])
    return FakeQuote(*sides, time_ns=NS + number * 1_000_000)


def bids(host: FakeHost, symbol: str = "EURUSD") -> list[float]:
    return [tick.bid for tick in host.records if isinstance(tick, Tick) and tick.symbol == symbol]


def numbered(numbers: range) -> list[float]:
    return [number + 0.25 for number in numbers]


async def session_end(
    venue: FakeOanda, host: FakeHost, do: Callable[[], Awaitable[None]], **settings: object
) -> MdserverError:
    """Run a session, do something to it once it streams, and return the error that ends it."""
    errors: list[MdserverError] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await make_broker(venue, **settings).run(host, task_status=task_status)  # type: ignore[arg-type]
        except MdserverError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await do()
    return errors[0]


async def refusal(venue: FakeOanda, **settings: object) -> MdserverError:
    """Run a session that does not come to stream, and return the error."""
    with pytest.raises(MdserverError) as caught:
        await make_broker(venue, **settings).run(FakeHost([EUR]))  # type: ignore[arg-type]
    assert venue.api_key not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_a_snapshot_and_then_prices(venue: FakeOanda, start: Start) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR])
    await start(host)
    await host.wait_confirmed([EUR])
    for number in range(2, 50):
        await venue.push("EUR_USD", quote(number))
        await venue.push("GBP_USD", quote(number))
    records = await host.wait_records(49)
    assert bids(host) == numbered(range(1, 50))
    assert records[0] == Tick("EURUSD", (NS + 1_000_000) // 1000, 1.25, 1.5, 1_000_000, 500_000)
    assert len(records) == 49, "nothing of instruments not asked for"


async def test_instruments_come_from_the_account(venue: FakeOanda, start: Start) -> None:
    host = FakeHost([Feed("NOSUCH", "tick"), Feed("EURUSD", "trade"), EUR])
    await start(host)
    assert host.table is not None
    table = {row.symbol: row for row in host.table}
    assert set(table) == {name.replace("_", "") for name in venue.instruments}
    row = table["SPX500USD"]
    assert (row.venue_symbol, row.base, row.quote) == ("SPX500_USD", "SPX500", "USD")
    assert "not among the instruments" in host.refused[Feed("NOSUCH", "tick")]
    assert "no trades" in host.refused[Feed("EURUSD", "trade")]
    await host.wait_confirmed([EUR])


@pytest.mark.parametrize(
    "changes",
    [
        {"cut_bytes": 1},
        {"cut_bytes": 7, "blank_lines": True},
        {"bare": True},
        {"shuffled": True},
        {"datetime_format": "UNIX"},
    ],
    ids=str,
)
async def test_the_forms_in_which_prices_come(
    venue: FakeOanda, rules: OandaRules, start: Start, changes: dict[str, object]
) -> None:
    for key, value in changes.items():
        setattr(rules, key, value)
    host = FakeHost([EUR])
    await start(host)
    levels = ([("2.25", 5), ("2.2", 9)], [("2.5", 6), ("2.6", 8)])
    await venue.push("EUR_USD", FakeQuote(*levels, time_ns=NS + 10**12 + 7_999, extra={"note": "€ ü"}))
    records = await host.wait_records(2)
    assert records[1:] == [Tick("EURUSD", NS // 1000 + 10**9 + 7, 2.25, 2.5, 5.0, 6.0)]
    assert not host.discarded


async def test_what_is_no_tick(venue: FakeOanda, start: Start) -> None:
    """A stale price before a weekend, and prices of one side, are counted and not published."""
    venue.instruments["EUR_USD"].quote = FakeQuote(tradeable=False, time_ns=NS - 10**15)
    host = FakeHost([EUR])
    await start(host)
    await venue.push("EUR_USD", FakeQuote(bids=[]))
    await venue.push("EUR_USD", FakeQuote(asks=[]))
    await venue.push("EUR_USD", FakeQuote(bids=[], asks=[]))
    await venue.push("EUR_USD", quote(5))
    await host.wait_records(1)
    assert bids(host) == [5.25]
    assert host.ignored_kinds == {"non-tradeable price": 1, "one-sided price": 3}


async def test_heartbeats_keep_a_quiet_stream_alive(venue: FakeOanda, start: Start) -> None:
    host = FakeHost([EUR])
    await start(host, silence_s=0.3)
    [stream] = await venue.wait_streams(1)
    stream.silence_prices()
    await host.wait_until(lambda: host.alive_count >= 6)
    assert await venue.wait_streams(1) == [stream]


async def test_a_mute_stream_is_dead(venue: FakeOanda) -> None:
    async def mute() -> None:
        [stream] = await venue.wait_streams(1)
        stream.mute()

    error = await session_end(venue, FakeHost([EUR]), mute, silence_s=0.3)
    assert isinstance(error, Unavailable)
    assert str(error).endswith("nothing received for 0.3 s, not even a heartbeat")
    await venue.wait_streams(0)


@pytest.mark.parametrize("how", ["end", "reset", "reset in a line", "no HTTP"])
async def test_an_end_of_the_stream_ends_the_session(venue: FakeOanda, how: str) -> None:
    venue.instruments["EUR_USD"].quote = quote(1)
    host = FakeHost([EUR])

    async def end() -> None:
        [stream] = await venue.wait_streams(1)
        await venue.push("EUR_USD", quote(2))
        await host.wait_records(2)
        if how == "end":
            await stream.end()
        elif how == "no HTTP":
            await stream.exchange.send_raw(b"what?\r\n\r\n")
        else:
            await stream.reset(b'{"type":"PRI' if "line" in how else b"")

    error = await session_end(venue, host, end)
    assert isinstance(error, Unavailable)
    assert bids(host) == numbered(range(1, 3))
    assert not host.discarded


async def test_garbage_is_discarded_and_the_stream_goes_on(venue: FakeOanda, start: Start) -> None:
    host = FakeHost([EUR])
    await start(host)
    [stream] = await venue.wait_streams(1)
    await stream.send(b'nonsense\n\xff\xfe\n{"type":"PRICE"}\n{"type":"NEWS","time":"x"}\n<html>\n')
    await venue.push("EUR_USD", quote(5))
    await host.wait_until(lambda: len(host.discarded) == 4)
    assert host.ignored_kinds["NEWS"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"api_key": "wrong"},
            r"HTTP 401: Insufficient authorization to perform request; check api_key, and that url",
        ),
        (
            {"account_id": "101-004-7654321-001"},
            r"HTTP 403: The provided request was forbidden; check that api_key may use account_id",
        ),
        ({"account_id": "7"}, r"HTTP 400: Invalid value specified for 'accountID'; check account_id"),
    ],
)
async def test_a_refusal_is_final_and_names_what_to_check(
    venue: FakeOanda, settings: dict[str, object], message: str
) -> None:
    error = await refusal(venue, **settings)
    assert isinstance(error, Rejected)
    assert str(error).startswith(venue.rest_url)
    assert re.search(message, str(error)), str(error)
    assert "{" not in str(error), "a sentence, no JSON"


async def test_a_wrong_address_is_final(venue: FakeOanda) -> None:
    error = await refusal(venue, rest_url=f"{venue.rest_url}/wrong")
    assert isinstance(error, Rejected)
    assert str(error).endswith("HTTP 404: not found; check url, rest_url and account_id")
    error = await refusal(venue, url=venue.rest_url)
    assert isinstance(error, Rejected)
    assert "HTTP 404" in str(error)


@pytest.mark.parametrize("path", ["/instruments", "/stream"])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_passes_is_unavailable_with_the_venues_wish(
    venue: FakeOanda, path: str, status: int
) -> None:
    fault = HttpFault("status", status, {"errorMessage": "later"}, {"Retry-After": "17"})
    venue.fail(fault, path=path)
    error = await refusal(venue)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 17
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize("path", ["/instruments", "/stream"])
async def test_a_proxys_page_is_told_as_such(venue: FakeOanda, path: str) -> None:
    venue.fail(HttpFault("html"), path=path)
    error = await refusal(venue)
    assert isinstance(error, Unavailable)
    assert "a web page titled 'Access denied' came in place of data" in str(error)


async def test_an_instrument_list_that_is_none_is_unavailable(venue: FakeOanda) -> None:
    venue.fail(HttpFault("status", 200, {"instruments": 7}), path="/instruments")
    error = await refusal(venue)
    assert isinstance(error, Unavailable)
    assert "/instruments: " in str(error)


async def test_an_account_without_instruments_refuses_everything(venue: FakeOanda, start: Start) -> None:
    venue.instruments.clear()
    host = FakeHost([EUR])
    await start(host)
    assert host.table == []
    assert EUR in host.refused


async def test_one_instrument_that_is_not_streamed_does_not_cost_the_others(
    venue: FakeOanda, start: Start
) -> None:
    venue.unstreamable.add("XAU_USD")
    gold = Feed("XAUUSD", "tick")
    host = FakeHost([EUR, gold])
    await start(host)
    await host.wait_confirmed([EUR])
    assert "Invalid value specified for 'instruments'" in host.refused[gold]
    host.demand.set([EUR, GBP, gold])
    await host.wait_confirmed([EUR, GBP])
    await venue.wait_streams(1, "EUR_USD", "GBP_USD")


async def test_new_instruments_are_found(venue: FakeOanda, start: Start) -> None:
    bitcoin = Feed("BTCUSD", "tick")
    host = FakeHost()
    await start(host, Timing(connect_gap_s=0.0, refresh_s=0.05))
    venue.instruments["BTC_USD"] = FakeInstrument("BTC_USD", price=60000, digits=1)
    await host.wait_until(lambda: any(row.symbol == bitcoin.symbol for row in host.table or ()))
    venue.fail(HttpFault("status", 401), path="/instruments", times=2)  # worth no stream
    host.demand.set([bitcoin])
    await host.wait_confirmed([bitcoin])


async def test_the_key_goes_into_the_header_alone(venue: FakeOanda, start: Start) -> None:
    await start(FakeHost([EUR]))
    assert len(venue.requests) == 2
    for request in venue.requests:
        assert request.headers["authorization"] == f"Bearer {venue.api_key}"
        assert venue.api_key not in request.target


async def test_cancelled_it_leaves_no_connection(venue: FakeOanda) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(make_broker(venue).run, FakeHost([EUR])))
        await venue.wait_streams(1)
        nursery.cancel_scope.cancel()
    await venue.wait_streams(0)


async def test_a_fault_of_our_own_is_not_taken_for_the_venues(venue: FakeOanda) -> None:
    host = FakeHost([EUR])

    def publish(_batch: object) -> None:
        raise ZeroDivisionError

    host.publish = publish  # type: ignore[method-assign, assignment]
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await make_broker(venue).run(host)


def test_timing_is_within_the_venues_limits() -> None:
    assert Timing().connect_gap_s * 2 > 1, "two connections a second at most"
    assert attrs.asdict(Timing())["retry_s"] > 0
