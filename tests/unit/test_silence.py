"""The silence of a venue: on a weekend, on a mute socket, on a quiet market. A virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import structlog
import trio

from mdserver.errors import Silent
from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.feed.silence import MOST_PATIENCE_S, Silence
from mdserver.metrics import Metrics
from mdserver.model import Feed

SATURDAY = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
WEDNESDAY = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
EURUSD, BTCUSDT, APPLE = Feed("EURUSD", "tick"), Feed("BTCUSDT", "tick"), Feed("AAPL", "tick")


def make_host(*feeds: Feed) -> Host:
    return Host(
        "x",
        BrokerDemand(feeds),
        emit=lambda _: None,
        last_records={},
        metrics=Metrics(),
        log=structlog.get_logger(),
    )


def clock_from(start_s: float) -> Callable[[], float]:
    began = trio.current_time()
    return lambda: start_s + trio.current_time() - began


async def silent_after(silence: Silence, bound_s: float) -> float | None:
    """Return after how long a session is given up, None if it is not."""
    began = trio.current_time()
    with trio.move_on_after(bound_s):
        with pytest.raises(Silent, match="nothing from the venue for"):
            await silence.watch()
        return trio.current_time() - began
    return None


@pytest.mark.parametrize(
    ("start_s", "feeds", "heartbeats", "alarmed"),
    [
        (SATURDAY, [EURUSD], False, False),
        (SATURDAY, [EURUSD, APPLE], False, False),
        (SATURDAY, [EURUSD, BTCUSDT], False, True),
        (SATURDAY, [EURUSD], True, True),  # heartbeats come on a weekend too: the socket is mute
        (WEDNESDAY, [EURUSD], False, True),
        (WEDNESDAY, [APPLE], False, True),
        (WEDNESDAY, [], True, False),
    ],
)
async def test_silence_is_a_fault_where_something_must_be_heard(
    autojump_clock: object, start_s: float, feeds: list[Feed], heartbeats: bool, alarmed: bool
) -> None:
    host = make_host(*feeds)
    if heartbeats:
        host.alive()
    after_s = await silent_after(Silence(30, host, clock_from(start_s)), 3600)
    assert (after_s is not None) is alarmed
    if after_s is not None:
        assert 30 < after_s <= 36


async def test_the_week_begins_on_sunday_evening(autojump_clock: object) -> None:
    sunday = datetime(2026, 11, 22, 21, 30, tzinfo=UTC).timestamp()  # half an hour before it opens
    after_s = await silent_after(Silence(30, make_host(EURUSD), clock_from(sunday)), 7200)
    assert after_s is not None
    assert 1800 < after_s <= 1800 + 40


async def test_patience_grows_while_sessions_hear_nothing_and_shrinks_with_what_is_heard(
    autojump_clock: object,
) -> None:
    host = make_host(BTCUSDT)
    silence = Silence(30, host, clock_from(WEDNESDAY))
    waits = [await silent_after(silence, 10_000) for _ in range(10)]
    assert waits[0] is not None
    assert waits[1] is not None
    assert waits[-1] is not None
    assert waits[0] < 36
    assert 60 < waits[1] < 66
    assert MOST_PATIENCE_S < waits[-1] < MOST_PATIENCE_S + 10

    async def records() -> None:
        while True:
            await trio.sleep(1)
            host.last_event_s = trio.current_time()

    with trio.move_on_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(records)
            nursery.start_soon(silence.watch)
    after_s = await silent_after(silence, 10_000)
    assert after_s is not None
    assert after_s < 36


async def test_a_quiet_instrument_is_not_taken_for_a_dead_session_again_and_again(
    autojump_clock: object,
) -> None:
    host = make_host(BTCUSDT)
    silence = Silence(30, host, clock_from(WEDNESDAY))

    async def a_record_in_five_minutes() -> None:
        while True:
            await trio.sleep(300)
            host.last_event_s = trio.current_time()

    restarts = 0
    with trio.move_on_after(86_400):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a_record_in_five_minutes)
            while True:
                try:
                    await silence.watch()
                except Silent:
                    restarts += 1
    assert restarts < 10


async def test_with_heartbeats_patience_never_grows(autojump_clock: object) -> None:
    host = make_host(BTCUSDT)
    host.alive()
    silence = Silence(30, host, clock_from(WEDNESDAY))
    for _ in range(5):
        after_s = await silent_after(silence, 1000)
        assert after_s is not None
        assert after_s <= 36
