"""What goes wrong before a venue is reached: one plain sentence in the state and the log, for each venue."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from mdserver.errors import Rejected, Unavailable
from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.feed.supervised_broker import SupervisedBroker
from mdserver.metrics import Metrics
from mdserver.model import Feed
from mdserver.plugin import Broker, BrokerPlugin, HistoryHost
from mdserver.testing.host import FakeHost
from mdserver.testing.http_venue import FakeHttpVenue, HttpFault, open_fake_http
from mdserver.testing.kraken import open_fake_kraken
from mdserver.testing.oanda import open_fake_oanda
from mdserver_binance import BinanceBroker, BinanceConfig
from mdserver_dukascopy import DukascopyConfig
from mdserver_dukascopy import plugin as dukascopy
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_oanda import OandaBroker, OandaConfig

PAGE = "<html><head><title>Hotel Wi-Fi</title></head><body>Sign in</body></html>"
NO_NAME = "http://no-such-host.invalid"


def binance(url: str) -> Broker:
    return BinanceBroker(BinanceConfig(url=url.replace("http", "ws", 1), rest_url=None))


def kraken(url: str) -> Broker:
    return KrakenBroker(KrakenConfig(url=url.replace("http", "ws", 1) + "/v2", rest_url=url))


def oanda(url: str) -> Broker:
    return OandaBroker(OandaConfig("101-004-1234567-001", "a-secret-token", url, url))


VENUES = pytest.mark.parametrize("make", [binance, kraken, oanda])


async def last_error(broker: Broker) -> tuple[str, str]:
    """Run a first session to its end; return the state that follows, and the error as it is shown."""
    demand = BrokerDemand([Feed("EURUSD", "tick")])
    metrics, log = Metrics(), structlog.get_logger()
    host = Host("x", demand, emit=lambda _: None, last_records={}, metrics=metrics, log=log)
    plugin = BrokerPlugin("x", "", object, lambda _: broker, silence_s=None)
    supervised = SupervisedBroker(plugin, lambda: broker, demand, host, metrics)
    over = trio.Event()
    supervised.listeners.append(
        lambda one, state, _: over.set() if state in ("backoff", "failed") and one.last_error else None
    )
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised.run)
            with trio.fail_after(30):
                await over.wait()
            state = str(supervised.state)
            nursery.cancel_scope.cancel()
    error = supervised.last_error or ""
    assert [line["error"] for line in lines if line["event"] == "broker session ended"] == [error]
    assert not any("exc_info" in line for line in lines)  # no traceback
    assert "\n" not in error
    assert "a-secret-token" not in str(lines)
    return state, error


@pytest.fixture
async def venue() -> AsyncIterator[FakeHttpVenue]:
    async with open_fake_http() as venue:
        yield venue


@VENUES
@pytest.mark.parametrize(("status", "check"), [(401, "(url|api_key)"), (404, "check `?url")])
async def test_what_trying_again_does_not_mend_says_what_to_check(
    venue: FakeHttpVenue, make: Callable[[str], Broker], status: int, check: str
) -> None:
    venue.fail(HttpFault("status", status, "no"))
    state, error = await last_error(make(venue.url))
    assert state == "failed"
    assert f"{venue.url.partition('://')[2]}/" in error
    assert f"HTTP {status}" in error
    assert re.search(check, error)


@VENUES
async def test_the_page_of_a_proxy_is_no_verdict_of_the_venue(
    venue: FakeHttpVenue, make: Callable[[str], Broker]
) -> None:
    venue.fail(HttpFault("status", 200, PAGE, headers={"Content-Type": "text/html"}))
    state, error = await last_error(make(venue.url))
    assert state == "backoff"
    assert re.search("a web page titled 'Hotel Wi-Fi' .*in place of data", error)


@VENUES
async def test_tls_that_is_not_spoken_there(venue: FakeHttpVenue, make: Callable[[str], Broker]) -> None:
    state, error = await last_error(make(venue.url.replace("http", "https")))
    assert (state, "the TLS handshake with 127.0.0.1 failed" in error) == ("backoff", True)
    assert "does the server use TLS at all" in error


@VENUES
async def test_a_name_that_nobody_knows(make: Callable[[str], Broker]) -> None:
    state, error = await last_error(make(NO_NAME))
    assert (state, "the name no-such-host.invalid cannot be resolved" in error) == ("backoff", True)


@VENUES
async def test_nobody_listens_there(make: Callable[[str], Broker]) -> None:
    state, error = await last_error(make("http://127.0.0.1:9"))
    assert (state, "cannot connect: Connection refused" in error) == ("backoff", True)


async def test_an_account_that_is_none_of_ours() -> None:
    async with open_fake_oanda() as venue:
        config = OandaConfig("101-004-7654321-001", venue.api_key, venue.url, venue.rest_url)
        state, error = await last_error(OandaBroker(config))
    assert (state, "may use account_id" in error) == ("failed", True)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, "no", Rejected, r"HTTP 401: no\..* need no key"),
        (404, "no", Rejected, r"HTTP 404: no\..*check `"),
        (200, PAGE, Unavailable, "a web page .*in place of data"),
    ],
)
async def test_the_past_is_refused_in_the_same_words(
    venue: FakeHttpVenue, status: int, body: str, kind: type[Exception], says: str
) -> None:
    venue.fail(
        HttpFault("status", status, body, headers={"Content-Type": "text/html"} if body == PAGE else {})
    )
    binance = BinanceBroker(BinanceConfig(url="ws://127.0.0.1:9", rest_url=venue.url))
    with pytest.raises(kind, match=says):
        await anext(binance.backfill(Feed("BTCUSDT", "trade"), 0, 10**15))
    async with open_fake_kraken() as fake, trio.open_nursery() as nursery:
        kraken = KrakenBroker(KrakenConfig(url=fake.url, rest_url=venue.url))
        await nursery.start(kraken.run, FakeHost())
        with pytest.raises(kind, match=says):
            await anext(kraken.backfill(Feed("BTCUSD", "trade"), 0, 10**15))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (HttpFault("status", 401, "no"), "HTTP 401: no"),
        (HttpFault("status", 200, PAGE, headers={"Content-Type": "text/html"}), "a page in place of data"),
        (None, "the name no-such-host.invalid cannot be resolved"),
    ],
)
async def test_a_history_source_says_it_too(venue: FakeHttpVenue, fault: HttpFault | None, says: str) -> None:
    if fault is not None:
        venue.fail(fault)
    url = f"{NO_NAME if fault is None else venue.url}/datafeed/"
    config = DukascopyConfig(url=url, jetta_url=url, services=("datafeed",), attempts=1)
    notices: list[str] = []
    async with dukascopy.factory(config, HistoryHost(structlog.get_logger(), notices.append)) as source:
        with pytest.raises((Rejected, Unavailable), match=says) as caught:
            await source.fetch("EURUSD", 1_549_238_400_000_000)
    assert "\n" not in str(caught.value)
