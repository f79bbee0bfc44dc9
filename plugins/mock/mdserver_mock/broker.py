"""The broker: publishes the walks' steps by the clock, for all wanted feeds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

import trio

from mdserver.model import Feed, Record, Tick, Trade
from mdserver.plugin import BrokerHost

from .config import MockConfig
from .walk import Step, walk

__all__ = ["MockBroker", "Pacer", "rotate", "stamps"]

MIN_SLEEP_S = 0.002
"""Shortest pause between hand-overs; what falls due meanwhile follows in one turn. A wake-up costs 50 to 100 µs."""

MAX_CATCH_UP_S = 0.1
"""After a stall, at most this much of the missed time is made up for; the rest never happened."""

MAX_TURN_S = 0.001
"""The longest time without a checkpoint for other tasks."""

_WELL_FORMED = re.compile(r"[A-Z0-9]{2,32}")


class Pacer:
    """Computes how many records are due, without drift: from the time since the start, never by adding pauses."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        """Start at ``now`` (seconds); ``rate`` in records/s, handed over in whole bursts."""
        self._rate = rate
        self._burst = burst
        self._origin = now
        self._sent = 0
        self._most = max(1, int(rate * MAX_CATCH_UP_S) // burst)

    def due(self, now: float) -> int:
        """Return the number of bursts due; they count as sent."""
        bursts = max(0, int((now - self._origin) * self._rate) - self._sent) // self._burst
        self._sent += bursts * self._burst
        return min(bursts, self._most)

    def pause_s(self, now: float) -> float:
        """Return how long to sleep until the next burst is due."""
        # half a record late rather than a rounding error early, which would cost a second wake-up
        return max(MIN_SLEEP_S, self._origin + (self._sent + self._burst) / self._rate + 1e-9 - now)


def stamps(clock_ns: Callable[[], int] = time.time_ns) -> Iterator[int]:
    """Yield the time in microseconds, strictly increasing even where the clock is coarser or steps back."""
    last = 0
    while True:
        last = max(last + 1, clock_ns() // 1000)
        yield last


def rotate(
    feeds: Iterable[Feed], walks: Callable[[str], Iterator[Step]], times: Iterator[int]
) -> Iterator[Record]:
    """Yield records for ever, symbol by symbol; each turn of a symbol takes one step of its walk."""
    wanted = [(symbol, {feed.type for feed in group}, walks(symbol))
              for symbol, group in groupby(sorted(feeds), lambda feed: feed.symbol)]  # fmt: skip
    turns = [(symbol, "tick" in types, "trade" in types, steps) for symbol, types, steps in wanted]
    while turns:
        for symbol, ticks, trades, steps in turns:
            bid, ask, bid_size, ask_size, price, size, side = next(steps)
            if ticks:
                yield Tick(symbol, next(times), bid, ask, bid_size, ask_size)
            if trades:
                time_us = next(times)
                yield Trade(symbol, time_us, price, size, side, str(time_us))


class MockBroker:
    """Streams made-up records for every feed that is wanted."""

    def __init__(self, config: MockConfig) -> None:
        self._config = config

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until cancelled; there is no connection that could end. Each session walks from the start."""
        session = _Session(self._config, host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.follow_demand)
            nursery.start_soon(session.pump)
            task_status.started()


class _Session:
    """What the two tasks of a session share: the records to come, or None while nobody wants any."""

    def __init__(self, config: MockConfig, host: BrokerHost) -> None:
        self._config = config
        self._host = host
        self._walks: dict[str, Iterator[Step]] = {}
        self._times = stamps()
        self._records: Iterator[Record] | None = None
        self._wanted = trio.Event()

    async def follow_demand(self) -> None:
        """Confirm or refuse what is newly wanted, and stream exactly what is wanted."""
        known: frozenset[Feed] = frozenset()
        while True:
            wanted = await self._host.demand.wait_changed(known)
            new = wanted - known
            served = frozenset(feed for feed in wanted if _WELL_FORMED.fullmatch(feed.symbol))
            known = served  # one that is refused and wanted again in the same moment is new
            if malformed := new - served:
                self._host.refuse(malformed, "not a symbol: expected 2 to 32 letters and digits")
            if accepted := new & served:
                self._host.confirm(accepted)
            self._stream(served)

    def _stream(self, feeds: frozenset[Feed]) -> None:
        symbols = {feed.symbol for feed in feeds}
        # a walk nobody watches is forgotten, so memory follows demand; wanted again, it starts anew
        self._walks = {symbol: steps for symbol, steps in self._walks.items() if symbol in symbols}
        self._records = rotate(feeds, self._walk, self._times) if feeds else None
        if feeds:
            self._wanted.set()
        else:
            self._wanted = trio.Event()

    def _walk(self, symbol: str) -> Iterator[Step]:
        if symbol not in self._walks:
            self._walks[symbol] = walk(symbol, seed=self._config.seed, step_bps=self._config.step_bps)
        return self._walks[symbol]

    async def pump(self) -> None:
        """Publish while anything is wanted."""
        while True:
            await self._wanted.wait()
            if self._config.rate:
                await self._pump_paced()
            else:
                await self._pump_flat_out()

    async def _pump_flat_out(self) -> None:
        while self._records is not None:
            self._host.publish(list(islice(self._records, self._config.burst)))
            await trio.lowlevel.checkpoint()

    async def _pump_paced(self) -> None:
        pacer = Pacer(self._config.rate, self._config.burst, trio.current_time())
        while self._records is not None:
            turn_ends = trio.current_time() + MAX_TURN_S
            for _ in range(pacer.due(trio.current_time())):
                if self._records is None:
                    return
                self._host.publish(list(islice(self._records, self._config.burst)))
                if trio.current_time() > turn_ends:
                    await trio.lowlevel.checkpoint()
                    turn_ends = trio.current_time() + MAX_TURN_S
            await trio.sleep(pacer.pause_s(trio.current_time()))
