"""The broker against a host in memory, on a virtual clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice, pairwise
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdserver.errors import BadMessage
from mdserver.model import Feed, Instrument, Record, Tick, Trade
from mdserver_mock import MockBroker, MockConfig
from mdserver_mock.broker import MAX_CATCH_UP_S, Pacer, stamps

EURUSD, USDJPY = Feed("EURUSD", "tick"), Feed("USDJPY", "tick")
EURUSD_TRADES = Feed("EURUSD", "trade")


class Demand:
    """A wanted set that the test changes."""

    def __init__(self) -> None:
        self._feeds: frozenset[Feed] = frozenset()
        self._changed = trio.Event()

    def want(self, *feeds: Feed) -> None:
        self._feeds = frozenset(feeds)
        self._changed.set()
        self._changed = trio.Event()

    def current(self) -> frozenset[Feed]:
        return self._feeds

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        while self._feeds == known:
            await self._changed.wait()
        return self._feeds


class Host:
    """Keeps what the broker hands over."""

    name = "mock"
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

    def __init__(self) -> None:
        self.demand = Demand()
        self.batches: list[list[Record]] = []
        self.confirmed: list[Feed] = []
        self.refused: dict[Feed, str] = {}

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    def publish(self, batch: Sequence[Record]) -> None:
        self.batches.append(list(batch))

    def confirm(self, feeds: Iterable[Feed]) -> None:
        self.confirmed += feeds

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        gone = dict.fromkeys(feeds, reason)
        self.refused |= gone
        self.demand.want(*(self.demand.current() - gone.keys()))  # as the server does

    def alive(self) -> None:
        raise NotImplementedError

    def discard(self, error: BadMessage, *, asked_again: bool = False) -> None:
        raise NotImplementedError

    def ignored(self, what: str) -> None:
        raise NotImplementedError

    def instruments(self, table: Iterable[Instrument]) -> None:
        raise NotImplementedError


@asynccontextmanager
async def streaming(*feeds: Feed, **settings: Any) -> AsyncIterator[Host]:
    """Run a session that streams these feeds."""
    host = Host()
    host.demand.want(*feeds)
    async with trio.open_nursery() as nursery:
        await nursery.start(MockBroker(MockConfig(**settings)).run, host)
        yield host
        nursery.cancel_scope.cancel()


async def test_records_come_in_turn_at_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    async with streaming(EURUSD, USDJPY, rate=10) as host:
        await trio.sleep(10.01)
    counts = Counter(record.symbol for record in host.records)
    assert counts == {"EURUSD": 50, "USDJPY": 50}
    assert {len(batch) for batch in host.batches} == {1}
    assert [record.symbol for record in host.records[:4]] == ["EURUSD", "USDJPY", "EURUSD", "USDJPY"]


@pytest.mark.parametrize(("rate", "burst"), [(100_000, 10), (100_000, 1), (2_000, 1), (777, 7), (0.5, 1)])
async def test_no_drift(autojump_clock: trio.testing.MockClock, rate: float, burst: int) -> None:
    async with streaming(EURUSD, rate=rate, burst=burst) as host:
        await trio.sleep(4.0005)
    assert {len(batch) for batch in host.batches} == {burst}
    # no more than the last pause and the burst that is not complete yet
    assert rate * 4 - len(host.records) <= burst + rate * 0.003
    assert len(host.records) <= rate * 4.0005 + 1


async def test_the_same_seed_gives_the_same_prices(autojump_clock: trio.testing.MockClock) -> None:
    runs = []
    for burst in (1, 7):
        async with streaming(EURUSD, USDJPY, rate=100, burst=burst, seed=5) as host:
            await trio.sleep(2.1)
        runs.append([(r.symbol, r.bid, r.ask_size) for r in host.records[:200] if isinstance(r, Tick)])
    assert len(runs[0]) == 200
    assert runs[0] == runs[1]


async def test_times_increase_within_each_feed(autojump_clock: trio.testing.MockClock) -> None:
    async with streaming(EURUSD, EURUSD_TRADES, USDJPY, rate=10_000, burst=50) as host:
        await trio.sleep(0.1)
    times = defaultdict(list)
    for record in host.records:
        times[record.symbol, type(record)].append(record.time_us)
    assert len(times) == 3
    assert all(earlier < later for of in times.values() for earlier, later in pairwise(of))


async def test_a_trade_happens_at_the_quote(autojump_clock: trio.testing.MockClock) -> None:
    async with streaming(EURUSD, EURUSD_TRADES, rate=100) as host:
        await trio.sleep(1)
    pairs = list(zip(host.records[::2], host.records[1::2], strict=False))
    assert len(pairs) > 40
    for tick, trade in pairs:
        assert isinstance(tick, Tick)
        assert isinstance(trade, Trade)
        assert trade.price == (tick.ask if trade.side == "buy" else tick.bid)
    assert len({trade.trade_id for _, trade in pairs if isinstance(trade, Trade)}) == len(pairs)


async def test_demand_is_followed(autojump_clock: trio.testing.MockClock) -> None:
    async with streaming(rate=10) as host:
        await trio.sleep(5)
        assert host.records == []

        host.demand.want(EURUSD)
        await trio.sleep(1.05)
        assert [record.symbol for record in host.records] == ["EURUSD"] * 10  # none for the idle time

        host.batches.clear()
        host.demand.want(EURUSD_TRADES, USDJPY)
        await trio.sleep(1)
        assert {(r.symbol, type(r)) for r in host.records} == {("EURUSD", Trade), ("USDJPY", Tick)}

        host.demand.want()
        await trio.sleep(0.01)
        host.batches.clear()
        await trio.sleep(5)
        assert host.records == []
    assert sorted(host.confirmed) == [EURUSD, EURUSD_TRADES, USDJPY]


async def test_a_change_of_demand_does_not_restart_the_others(autojump_clock: trio.testing.MockClock) -> None:
    async with streaming(EURUSD, rate=20) as host:
        await trio.sleep(1)
        host.demand.want(EURUSD, USDJPY)
        await trio.sleep(2)
    async with streaming(EURUSD, rate=20) as alone:
        await trio.sleep(2)
    changed = [r.bid for r in host.records if r.symbol == "EURUSD" and isinstance(r, Tick)]
    undisturbed = [r.bid for r in alone.records if isinstance(r, Tick)]
    assert changed[:35] == undisturbed[:35]


async def test_malformed_symbols_are_refused_and_the_rest_streams(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bad = [Feed("EUR/USD", "tick"), Feed("", "tick"), Feed("eurusd", "tick"), Feed("A" * 33, "tick")]
    async with streaming(EURUSD, *bad, rate=10) as host:
        await trio.sleep(1)
    assert set(host.refused) == set(bad)
    assert "letters and digits" in host.refused[bad[0]]
    assert host.confirmed == [EURUSD]
    assert {record.symbol for record in host.records} == {"EURUSD"}


async def test_flat_out_gives_others_a_turn() -> None:
    async with streaming(EURUSD, rate=0, burst=10) as host:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        host.demand.want()
        await trio.testing.wait_all_tasks_blocked()
    assert {len(batch) for batch in host.batches} == {10}
    assert 5 <= len(host.batches) <= 40


async def test_it_starts_before_anything_is_wanted() -> None:
    with trio.fail_after(1):
        async with streaming():
            pass


@given(
    rate=st.floats(0.1, 100_000),
    burst=st.integers(1, 100),
    pauses=st.lists(st.floats(0, 0.05), min_size=1, max_size=50),
)
def test_a_pacer_never_runs_ahead_and_never_falls_behind(
    rate: float, burst: int, pauses: list[float]
) -> None:
    now, sent = 1_000.0, 0
    pacer = Pacer(rate, burst, now)
    for pause in pauses:
        now += pause
        sent += pacer.due(now) * burst
        assert sent <= (now - 1_000) * rate + 1e-6
        if rate * MAX_CATCH_UP_S > 2 * burst:
            assert sent > (now - 1_000) * rate - burst - 1
        assert pacer.pause_s(now) > 0


def test_a_stall_is_made_up_for_within_bounds() -> None:
    pacer = Pacer(1_000, 10, 0.0)
    assert pacer.due(60.0) == 1_000 * MAX_CATCH_UP_S / 10
    assert pacer.due(60.0) == 0
    assert pacer.due(60.01) == 1


def test_stamps_increase_though_the_clock_steps_back() -> None:
    readings = iter([5_000, 5_000, 3_000, 9_000, 9_500])
    assert list(islice(stamps(lambda: next(readings)), 5)) == [5, 6, 7, 9, 10]
