"""How sessions end, against the fake venue: closes, refusals, silence, cancellation."""

import functools
from collections.abc import Callable

import pytest
import trio

from mdserver.errors import Rejected, Unavailable
from mdserver.model import Feed
from mdserver.testing.binance import FakeBinance
from mdserver.testing.host import FakeHost
from mdserver_binance import BinanceBroker, BinanceConfig

from .sessions import BTC, QUICK, run


async def test_the_daily_close_ends_a_session_normally(venue: FakeBinance) -> None:
    venue.rules.lifetime_s = 0.1
    await run(venue, FakeHost([BTC]))


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (451, Rejected, "does not serve this location.*data-stream.binance.vision"),
        (403, Unavailable, "firewall blocks this address"),
        (429, Unavailable, "too many requests.*requested pause: 9 s"),
        (418, Unavailable, "banned for a while.*requested pause: 9 s"),
        (503, Unavailable, ""),
    ],
)
async def test_refused_connections(
    venue: FakeBinance, status: int, error: type[Exception], told: str
) -> None:
    venue.rules.refuse = (status, {"Retry-After": "9"}, '{"msg":"restricted location"}')
    with pytest.raises(error, match=f"HTTP {status}.*restricted location.*{told}") as caught:
        await run(venue, FakeHost())
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after_s == 9


async def test_a_close_for_cause_is_unavailable(venue: FakeBinance, nursery: trio.Nursery) -> None:
    host = FakeHost([BTC])

    async def kick() -> None:
        await host.wait_confirmed([BTC])
        await venue.connections[0].close(1008, "Pong timeout")

    nursery.start_soon(kick)
    with pytest.raises(Unavailable, match="1008 Pong timeout"):
        await run(venue, host)


async def test_reset_is_unavailable(venue: FakeBinance, nursery: trio.Nursery) -> None:
    host = FakeHost([BTC])

    async def kick() -> None:
        await host.wait_confirmed([BTC])
        await venue.connections[0].send_raw(b"\x81\x7e\x01\x00{")
        venue.connections[0].reset()

    nursery.start_soon(kick)
    with pytest.raises(Unavailable, match="connection lost"):
        await run(venue, host)


async def test_silence_is_unavailable(venue: FakeBinance) -> None:
    venue.rules.answer_pings = False
    with pytest.raises(Unavailable, match="nothing received for 1 s"):
        await run(venue, FakeHost(), silence_s=1.0)


async def test_no_reply_to_a_request_is_unavailable(
    venue: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdserver_binance.link._REPLY_S", 0.1)
    venue.rules.answer_requests = False
    with pytest.raises(Unavailable, match="no reply to a request"):
        await run(venue, FakeHost([BTC]))


async def test_a_wrong_rest_address_is_said(venue: FakeBinance) -> None:
    with pytest.raises(Rejected, match="HTTP 404"):
        await run(venue, FakeHost(), rest_url=f"{venue.rest_url}/api/wrong")


async def test_a_session_ends_at_once_when_cancelled(venue: FakeBinance) -> None:
    host = FakeHost([BTC])
    async with trio.open_nursery() as nursery:
        broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK)
        await nursery.start(functools.partial(broker.run, host))
        await host.wait_confirmed([BTC])
        before = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 1
    await venue.wait_until(lambda: bool(venue.past))
    assert venue.past[0].client_close == (1000, "")


async def test_sessions_one_after_the_other_tell_the_host_again(venue: FakeBinance) -> None:
    broker = BinanceBroker(BinanceConfig(url=venue.url, rest_url=venue.rest_url), QUICK)
    for _ in range(2):
        host = FakeHost([BTC, Feed("B@D", "tick")])
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(broker.run, host))
            await host.wait_confirmed([BTC])
            assert host.refused.keys() == {Feed("B@D", "tick")}
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda venue: venue.disconnect(1008, "Pong timeout"), "1008 Pong timeout"),
        (FakeBinance.hang_up, "without a close frame"),
        (FakeBinance.reset_in_frame, "connection lost"),
        (FakeBinance.go_dark, "nothing received for 1 s"),
    ],
)
async def test_each_end_of_a_connection(
    venue: FakeBinance, nursery: trio.Nursery, end: Callable[[FakeBinance], None], told: str
) -> None:
    host = FakeHost([BTC])

    async def act() -> None:
        await host.wait_confirmed([BTC])
        end(venue)

    nursery.start_soon(act)
    with pytest.raises(Unavailable, match=told):
        await run(venue, host, silence_s=1.0)
