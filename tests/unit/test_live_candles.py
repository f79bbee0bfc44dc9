"""Live candles: what is sent when, by a clock and a table that the test moves."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mdserver.errors import StoreUnavailable
from mdserver.model import US_PER_S, Candle, Published, Tick, Topic
from mdserver.stream import live_candles
from mdserver.stream.live_candles import CandleKey, LiveCandles, StoredCandle

TICKS = Topic("mock", "EURUSD", "tick")
MINUTE = Topic("mock", "EURUSD", "candle", "1m")
T0 = 1_710_918_000


class World:
    """A table of candles, what was received and stored, and a clock."""

    def __init__(self) -> None:
        self.now = T0 + 10.0
        self.table: dict[CandleKey, StoredCandle] = {}
        self.received = self.committed = 0
        self.away: str | None = None
        self.sent: list[Candle] = []
        self.candles = LiveCandles(
            route=lambda batch: self.sent.extend(one.record for one in batch),
            read=self.read,
            barrier=self.barrier,
            away=lambda: self.away,
            now=lambda: self.now,
        )

    async def read(self, keys: Sequence[CandleKey]) -> dict[CandleKey, StoredCandle]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreUnavailable(self.away)
        return {key: self.table[key] for key in keys if key in self.table}

    def barrier(self):
        mark = self.received
        return lambda: self.committed >= mark

    def store(self, at_s: float, price: float) -> None:
        """Store a tick as the write path does: table first, then the word of it."""
        for length_s in (60, 300):
            key = CandleKey(*TICKS[:3], length_s, int(at_s // length_s) * length_s)
            old = self.table.get(key, StoredCandle(price, price, price, price, 0.0, 0))
            self.table[key] = StoredCandle(
                old.open, max(old.high, price), min(old.low, price), price, 0.0, old.row_count + 1
            )
        tick = Tick("EURUSD", int(at_s * US_PER_S), price, price)
        self.candles.stored([Published(TICKS, 1, tick)])

    async def passed(self, seconds: float = 0.0) -> list[Candle]:
        """Let time pass; return what was sent meanwhile."""
        self.now += seconds
        self.candles._woken.set()
        await trio.sleep(3)  # of a clock that jumps: all that can happen has happened
        sent, self.sent[:] = list(self.sent), []
        return sent


async def started(nursery: trio.Nursery) -> World:
    world = World()
    await nursery.start(world.candles.run)
    return world


async def test_forming_on_subscribe_then_each_change_then_closed_once_without_a_following_tick(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        world.store(T0 + 5, 1.5)
        world.candles.hold(MINUTE, "tick")
        (first,) = await world.passed()
        assert (first.time_us, first.close, first.closed) == (T0 * US_PER_S, 1.5, False)
        assert await world.passed(5) == []
        world.store(T0 + 16, 2.5)
        (second,) = await world.passed()
        assert (second.close, second.count, second.closed, second.revised) == (2.5, 2, False, False)
        assert await world.passed(45.9) == []  # the minute is over, its grace is not
        (closed,) = await world.passed(0.2)
        assert (closed.close, closed.count, closed.closed, closed.revised) == (2.5, 2, True, False)
        assert await world.passed(120) == []  # none is invented
        nursery.cancel_scope.cancel()


async def test_a_candle_closes_only_when_all_that_was_received_is_stored(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        world.candles.hold(MINUTE, "tick")
        world.store(T0 + 5, 1.5)
        await world.passed()
        world.received = 1
        assert await world.passed(60) == []
        world.store(T0 + 59, 3.5)
        world.committed = 1
        (closed,) = await world.passed()
        assert (closed.close, closed.closed, closed.revised) == (3.5, True, False)
        nursery.cancel_scope.cancel()


async def test_a_late_record_sends_the_candle_again_revised(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        world.candles.hold(MINUTE, "tick")
        world.store(T0 + 5, 1.5)
        assert [one.closed for one in await world.passed()] == [False]
        assert [one.closed for one in await world.passed(60)] == [True]
        world.store(T0 + 30, 9.5)
        (again,) = await world.passed()
        assert (again.high, again.closed, again.revised) == (9.5, True, True)
        world.candles.stored([Published(TICKS, 2, Tick("EURUSD", (T0 + 30) * US_PER_S, 9.5, 9.5))])
        assert await world.passed() == []  # nothing changed
        nursery.cancel_scope.cancel()


async def test_over_an_outage_each_candle_closes_once_and_clients_are_told(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        told: list[str] = []
        world.candles.listeners.append(lambda state, message: told.append(state))
        world.candles.hold(MINUTE, "tick")
        world.store(T0 + 5, 1.5)
        await world.passed()
        world.away, world.received = "no answer", 3
        for _ in range(3):
            assert await world.passed(60) == []
        assert told == ["waiting"]
        for minute in range(3):
            world.store(T0 + 60 * minute + 30, 2.0 + minute)
        world.away, world.committed = None, 3
        sent = await world.passed()
        assert [(one.time_us // US_PER_S - T0, one.closed, one.revised) for one in sent] == [
            (0, True, False),
            (60, True, False),
            (120, True, False),
        ]
        assert told == ["waiting", "live"]
        nursery.cancel_scope.cancel()


async def test_nothing_is_read_or_kept_while_nobody_asks(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        world.candles.hold(MINUTE, "tick")
        world.candles.hold(MINUTE._replace(symbol="*"), "tick")
        world.store(T0 + 5, 1.5)
        assert len(await world.passed()) == 1
        world.candles.release(MINUTE, "tick")
        world.store(T0 + 6, 1.75)
        assert len(await world.passed()) == 1  # by the wildcard
        world.candles.release(MINUTE._replace(symbol="*"), "tick")
        world.store(T0 + 7, 1.25)
        assert await world.passed(60) == []
        assert (world.candles._lines, world.candles._clocks, world.candles._every) == ({}, {}, {})
        nursery.cancel_scope.cancel()


async def test_several_timeframes_close_at_their_own_ends(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        world = await started(nursery)
        world.candles.hold(MINUTE, "tick")
        world.candles.hold(MINUTE._replace(variant="5m"), "tick")
        world.store(T0 + 5, 1.5)
        assert {one.interval for one in await world.passed()} == {"1m", "5m"}
        assert [one.interval for one in await world.passed(60)] == ["1m"]
        (five,) = await world.passed(300)
        assert (five.interval, five.closed) == ("5m", True)
        nursery.cancel_scope.cancel()


def test_the_pace_is_at_most_four_a_second() -> None:
    assert live_candles.PACE_S >= 0.25
