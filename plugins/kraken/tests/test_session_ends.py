"""How sessions end, against the fake venue: refusals, closes, no answer."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from mdserver.errors import Rejected, Unavailable
from mdserver.net import WebSocketClosed
from mdserver.testing.host import FakeHost
from mdserver.testing.kraken import FakeKraken
from mdserver_kraken import KrakenBroker, KrakenConfig
from mdserver_kraken.link import Timing

from .conftest import FAST
from .sessions import BTC


async def test_a_venue_that_answers_nothing_ends_the_session(venue: FakeKraken) -> None:
    venue.rules.mute = frozenset({"BTC/USD"})
    with pytest.raises(Unavailable, match="none of our requests was answered"):
        await run(venue, FakeHost([BTC]))


async def run(venue: FakeKraken, host: FakeHost, timing: Timing = FAST, **settings: object) -> None:
    config = KrakenConfig(**({"url": venue.url, "rest_url": venue.rest_url} | settings))  # type: ignore[arg-type]
    await KrakenBroker(config, timing).run(host)


@pytest.mark.parametrize(
    ("status", "error"), [(451, Rejected), (404, Rejected), (403, Unavailable), (429, Unavailable), (503, Unavailable)]
)  # fmt: skip
async def test_refused_connections(venue: FakeKraken, status: int, error: type[Exception]) -> None:
    venue.refuse(status, "restricted location", {"Retry-After": "9"})
    with pytest.raises(error, match=f"HTTP {status}: restricted location") as caught:
        await run(venue, FakeHost())
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after_s == 9


async def test_too_many_attempts_are_no_verdict(venue: FakeKraken) -> None:
    venue.rules.max_connects = 0
    with pytest.raises(Unavailable, match="HTTP 429"):
        await run(venue, FakeHost())


@pytest.mark.parametrize(
    ("end", "error", "told"),
    [
        (FakeKraken.disconnect, WebSocketClosed, "1001 going away"),
        (FakeKraken.hang_up, Unavailable, "without a close frame"),
        (FakeKraken.reset, Unavailable, "connection lost"),
        (FakeKraken.reset_in_frame, Unavailable, "connection lost"),
        (FakeKraken.go_dark, Unavailable, "nothing received for 2 s"),
    ],
)
async def test_each_end_of_a_connection(
    venue: FakeKraken,
    nursery: trio.Nursery,
    end: Callable[[FakeKraken], None],
    error: type[Unavailable],
    told: str,
) -> None:
    host = FakeHost([BTC])

    async def act() -> None:
        await host.wait_confirmed([BTC])
        end(venue)

    nursery.start_soon(act)
    with pytest.raises(error, match=told):
        await run(venue, host, silence_s=2.0)


async def test_no_list_of_instruments_in_time_is_unavailable(venue: FakeKraken) -> None:
    venue.rules.snapshots = False
    with pytest.raises(Unavailable, match=r"no list of instruments within 0.1 s"):
        await run(venue, FakeHost(), Timing(instruments_s=0.1))


async def test_a_refused_list_of_instruments_is_unavailable(venue: FakeKraken) -> None:
    venue.rules.max_messages_per_s = 0
    with pytest.raises(Unavailable, match="no list of instruments: Exceeded msg rate"):
        await run(venue, FakeHost())
