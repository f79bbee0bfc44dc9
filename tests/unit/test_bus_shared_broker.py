"""Who leads a broker, who takes over, and where its numbers go on; several processes over one engine in memory."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from mdserver.bus.engine import BusUnavailable
from mdserver.bus.followed import FAILOVER, LEFT_OUT, Followed, encode_marks
from mdserver.bus.guard import Guard
from mdserver.bus.memory_engine import MemoryEngine
from mdserver.bus.names import answers_key, demand_prefix, holder_key, lease_key, stream_key
from mdserver.bus.open_engine import import_engine
from mdserver.bus.shared_broker import SharedBroker
from mdserver.bus.shipper import Shipper
from mdserver.bus.take_over import Bus, Lead
from mdserver.errors import ConfigError, JournalFull, Rejected, StoreUnavailable
from mdserver.feed.broker_host import Host
from mdserver.feed.broker_state import State
from mdserver.feed.demand import BrokerDemand, FeedChange
from mdserver.metrics import Metrics
from mdserver.model import Feed, Gap, LastRecord, Published, Tick, Topic
from mdserver.plugin import BrokerPlugin

LEASE_S = 5.0
KEEP_S = 60.0
EVERY_S = 0.1
FEED = Feed("EURUSD", "tick")
OTHER = Feed("GBPUSD", "tick")
TOPIC = Topic("sea", *FEED)


class Database:
    """What all processes share besides the bus."""

    def __init__(self) -> None:
        self.records: dict[tuple[Topic, int], Published] = {}
        self.away = False
        self.noted: tuple[int, str] | None = None

    def check(self) -> None:
        if self.away:
            raise StoreUnavailable("the database is away")

    async def last_records(self, broker: str) -> Mapping[Topic, LastRecord]:
        await trio.lowlevel.checkpoint()
        self.check()
        found: dict[Topic, LastRecord] = {}
        for (topic, seq), one in sorted(self.records.items()):
            assert not isinstance(one.record, Gap)
            found[topic] = LastRecord(seq, one.record.time_us)
        return found

    async def missing(
        self, topic: Topic, after: int, before: int, from_us: int, to_us: int
    ) -> Sequence[Published]:
        await trio.lowlevel.checkpoint()
        self.check()
        return [
            one for (of, seq), one in sorted(self.records.items()) if of == topic and after < seq < before
        ]

    async def fences(self, broker: str, process: str, fence: int) -> tuple[int, str]:
        await trio.lowlevel.checkpoint()
        self.check()
        if self.noted is None or self.noted[0] < fence:
            self.noted = fence, process
        return self.noted


class Link(MemoryEngine):
    """One process's way to the engine, which can be cut, or swallow every call."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine
        self.is_cut = self.is_silent = False

    def __getattribute__(self, name: str) -> Any:
        if name in ("engine", "is_cut", "is_silent") or name.startswith("__"):
            return object.__getattribute__(self, name)
        found = getattr(self.engine, name)
        if not callable(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            if self.is_cut:
                await trio.lowlevel.checkpoint()
                raise BusUnavailable("cut off")
            if self.is_silent:
                await trio.sleep(3)
                raise BusUnavailable("no answer")
            return await found(*args, **named)

        return call


class Process:
    """One process with the broker ``sea``: a venue that sends a tick of each wanted feed every 0.1 s."""

    def __init__(
        self,
        name: str,
        engine: MemoryEngine,
        database: Database,
        *,
        leads: bool = True,
        keep_bytes: int = 1 << 20,
    ) -> None:
        self.name = name
        self.link = Link(engine)
        self.database = database
        self.journal: list[Published] = []
        self.journal_fails: Exception | None = None
        self.storing = True
        self.seen: list[Published] = []
        self.sessions = 0
        self.refuses: dict[str, str] = {}
        self.error: Exception | None = None
        self.metrics = Metrics()
        self.shipper = Shipper(
            self.link, self.metrics, max_bytes=1 << 20, keep_s=KEEP_S, keep_bytes=keep_bytes
        )
        self.guard = Guard(self.emit, self.metrics)
        self.demand = BrokerDemand([FEED])
        host = Host(
            "sea",
            self.demand,
            emit=self.guard,
            last_records={},
            metrics=self.metrics,
            log=structlog.get_logger(),
        )
        plugin = BrokerPlugin("sea", "", object, lambda _: None)
        self.broker = SharedBroker(plugin, lambda: _Venue(self), self.demand, host, self.metrics)
        self.followed = Followed(
            "sea",
            route=self.seen.extend,
            on_stored=lambda _: None,
            missing=database.missing,
            metrics=self.metrics,
        )
        lead = Lead(self.shipper, self.append, lambda _: self.own_last(), database.fences) if leads else None
        bus = Bus(self.link, name, LEASE_S, KEEP_S, database.last_records, lead)
        self.broker.share(bus, self.followed, self.guard)

    def append(self, batch: list[Published]) -> None:
        if self.journal_fails is not None:
            raise self.journal_fails
        self.journal += batch

    def emit(self, batch: list[Published]) -> None:
        self.append(batch)
        self.seen += batch
        self.shipper.offer(batch)

    def own_last(self) -> dict[Topic, LastRecord]:
        return {
            one.topic: LastRecord(one.seq, one.record.time_us)
            for one in self.journal
            if not isinstance(one.record, Gap)
        }

    def store(self) -> None:
        marks: dict[Topic, int] = {}
        for one in self.journal:
            if not isinstance(one.record, Gap):
                self.database.records.setdefault((one.topic, one.seq), one)
                marks[one.topic] = one.seq
        if marks:
            self.shipper.mark("sea", encode_marks(marks))

    async def drain(self) -> None:
        while True:
            if self.storing and not self.database.away:
                self.store()
            await trio.sleep(0.25)

    async def run(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.shipper.run)
                nursery.start_soon(self.drain)
                with trio.CancelScope() as sessions:
                    task_status.started(sessions)
                    await self.broker.run()
                scope.cancel()

    @property
    def leads(self) -> bool:
        return self.broker.fence is not None

    def numbers(self, topic: Topic = TOPIC) -> list[int]:
        return [one.seq for one in self.seen if one.topic == topic and not isinstance(one.record, Gap)]

    def causes(self) -> list[str]:
        return [one.record.cause for one in self.seen if isinstance(one.record, Gap)]

    def jumps(self) -> list[int]:
        return [after - before for before, after in pairwise(self.numbers()) if after != before + 1]


class _Venue:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def run(self, host: Any, *, task_status: trio.TaskStatus[None]) -> None:
        process = self._process
        if process.error is not None:
            raise process.error
        process.sessions += 1
        task_status.started()
        while True:
            for feed in sorted(process.demand.current()):
                if feed.symbol in process.refuses:
                    host.refuse([feed], process.refuses[feed.symbol])
                else:
                    host.confirm([feed])
                    time_us = 1_700_000_000_000_000 + int(trio.current_time() * 1e6)
                    host.publish([Tick(feed.symbol, time_us, 1.0, 1.1)])
            await trio.sleep(EVERY_S)


class Cluster:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.engine = MemoryEngine()
        self.database = Database()
        self.processes: dict[str, Process] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def start(
        self,
        name: str,
        *,
        leads: bool = True,
        journal: Sequence[Published] = (),
        keep_bytes: int = 1 << 20,
    ) -> Process:
        process = self.processes[name] = Process(
            name, self.engine, self.database, leads=leads, keep_bytes=keep_bytes
        )
        process.journal += journal
        self._scopes[name] = await self._nursery.start(process.run)
        return process

    async def stop(self, name: str) -> None:
        self._scopes[name].cancel()
        await trio.sleep(0.01)

    async def kill(self, name: str) -> None:
        """End a process that has no chance to say good-bye."""
        self.processes[name].link.is_cut = True
        self.processes[name].storing = False
        await self.stop(name)

    def leaders(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.leads]


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps at once: there are neither threads nor sockets to wait for."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> AsyncIterator[Cluster]:
    cluster = Cluster(nursery)
    yield cluster
    nursery.cancel_scope.cancel()


async def until(holds: Callable[[], bool], within_s: float = 60) -> float:
    """Wait until something holds; return how long that took."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not holds():
            await trio.sleep(0.05)
    return trio.current_time() - began


async def two_and_an_edge(cluster: Cluster) -> tuple[Process, Process, Process]:
    a = await cluster.start("a")
    await until(lambda: a.leads)
    b, x = await cluster.start("b"), await cluster.start("x", leads=False)
    await until(lambda: len(x.numbers()) > 50 and len(b.numbers()) > 50)
    return a, b, x


async def test_one_leads_and_the_others_have_the_same(cluster: Cluster, autojump_clock: object) -> None:
    a, b, x = await two_and_an_edge(cluster)
    assert cluster.leaders() == ["a"]
    assert (a.broker.state, b.broker.state, x.broker.state) == ("live", "standby", "live")
    assert b.sessions == x.sessions == 0
    for process in (a, b, x):
        assert process.jumps() == []
    assert x.journal == b.journal == []


async def test_another_takes_over_from_one_that_was_killed(cluster: Cluster, autojump_clock: object) -> None:
    _a, b, x = await two_and_an_edge(cluster)
    await cluster.kill("a")
    assert await until(lambda: b.leads) <= LEASE_S
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 50)
    (jump,) = x.jumps()
    assert jump > LEFT_OUT
    assert set(x.causes()) == {FAILOVER}
    assert x.numbers()[-50:] == b.numbers()[-50:]


async def test_what_only_the_bus_has_is_stored_by_the_next_leader(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, x = await two_and_an_edge(cluster)
    a.storing = False
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    await cluster.kill("a")
    await until(lambda: b.leads)
    await trio.sleep(2)
    b.store()
    stored = {seq for topic, seq in cluster.database.records if topic == TOPIC}
    assert set(x.numbers()) <= stored


async def test_what_the_bus_has_lost_too_is_stored_by_the_next_leader_that_has_received_it(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, x = await two_and_an_edge(cluster)
    a.storing = False
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    cluster.engine.streams.clear()
    await until(lambda: len(x.numbers()) > seen + 25)  # of these the bus has the last few
    await cluster.kill("a")
    await until(lambda: b.leads)
    await trio.sleep(2)
    assert [one.seq for one in b.journal] == sorted(one.seq for one in b.journal)
    b.store()
    stored = {seq for topic, seq in cluster.database.records if topic == TOPIC}
    assert set(x.numbers()) <= stored


async def test_a_leader_that_stops_in_order_leaves_no_number_out(
    cluster: Cluster, autojump_clock: object
) -> None:
    _a, b, x = await two_and_an_edge(cluster)
    await cluster.stop("a")
    assert await until(lambda: b.leads) <= LEASE_S / 4
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 50)
    assert x.jumps() == b.jumps() == []
    assert x.causes() == ["restart"] * len(x.causes())


async def test_the_same_leader_again_leaves_no_number_out(cluster: Cluster, autojump_clock: object) -> None:
    a = await cluster.start("a")
    x = await cluster.start("x", leads=False)
    await until(lambda: len(x.numbers()) > 50)
    await cluster.kill("a")
    again = await cluster.start("a", journal=a.journal)
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 50)
    assert again.leads
    assert x.jumps() == []


async def test_a_take_over_that_fails_does_not_say_that_all_is_known(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, x = await two_and_an_edge(cluster)
    a.storing = False
    await trio.sleep(1)
    b.journal_fails = JournalFull("the journal is full")
    await cluster.kill("a")
    await until(lambda: "journal" in str(b.broker.last_error))
    assert not b.leads
    assert b.broker.state == "backoff"
    b.journal_fails = None
    await until(lambda: b.leads)
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    assert [jump > LEFT_OUT for jump in x.jumps()] == [True]


async def test_a_database_that_is_away_at_a_take_over(cluster: Cluster, autojump_clock: object) -> None:
    _a, b, x = await two_and_an_edge(cluster)
    cluster.database.away = True
    await cluster.kill("a")
    await until(lambda: b.leads)
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    assert [jump > LEFT_OUT for jump in x.jumps()] == [True]
    cluster.database.away = False
    await until(lambda: cluster.database.noted == (b.broker.fence, "b"))


async def test_nobody_begins_who_knows_no_numbers(cluster: Cluster, autojump_clock: object) -> None:
    cluster.database.records[TOPIC, 700] = Published(TOPIC, 700, Tick("EURUSD", 1, 1.0, 1.1))
    cluster.database.away = True
    a = await cluster.start("a")
    await trio.sleep(20)
    assert not a.leads
    assert a.broker.state == "backoff"
    cluster.database.away = False
    await until(lambda: len(a.numbers()) > 10)
    assert a.numbers()[0] > 700


async def test_the_bus_away_for_a_while_loses_nothing(cluster: Cluster, autojump_clock: object) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    cluster.engine.away = True
    seen = len(a.numbers())
    await trio.sleep(3 * LEASE_S)
    assert cluster.leaders() == ["a"]
    assert len(a.numbers()) > seen + 100
    assert x.broker.state == "backoff"
    cluster.engine.away = False
    await until(lambda: x.broker.state == "live" and x.numbers()[-1] >= a.numbers()[-1] - 1)
    assert cluster.leaders() == ["a"]
    assert x.jumps() == a.jumps() == []


async def test_a_bus_that_does_not_answer_leaves_the_leader_alone(
    cluster: Cluster, autojump_clock: object
) -> None:
    a = await cluster.start("a")
    await until(lambda: len(a.numbers()) > 20)
    a.link.is_silent = True
    await trio.sleep(4 * LEASE_S)
    assert a.leads
    assert a.jumps() == []
    assert not a.guard.dropped
    assert a.sessions == 1


async def test_the_bus_comes_back_empty(cluster: Cluster, autojump_clock: object) -> None:
    a, b, x = await two_and_an_edge(cluster)
    cluster.engine.away = True
    await trio.sleep(LEASE_S)
    cluster.engine.streams.clear()
    cluster.engine._keys.clear()
    cluster.engine._fences.clear()
    cluster.engine.away = False
    await until(
        lambda: x.broker.state == "live" and x.numbers()[-1] >= cluster.processes["a"].numbers()[-1] - 1
    )
    await trio.sleep(2 * LEASE_S)
    assert len(cluster.leaders()) == 1
    for process in (a, b, x):
        numbers = process.numbers()
        assert all(after > before for before, after in pairwise(numbers))
        assert all(jump > LEFT_OUT for jump in process.jumps())
        assert "bus" not in process.causes()


async def test_a_bus_that_was_emptied_without_a_break(cluster: Cluster, autojump_clock: object) -> None:
    _a, b, x = await two_and_an_edge(cluster)
    await cluster.kill("a")
    cluster.engine.streams.clear()
    cluster.engine._keys.clear()
    cluster.engine._fences.clear()
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 50)
    assert b.leads
    assert len(x.jumps()) == 1


async def test_two_never_lead_where_one_does_not_reach_the_bus(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, _x = await two_and_an_edge(cluster)
    a.link.is_cut = True
    await until(lambda: b.leads)
    assert cluster.leaders() == ["b"]
    await trio.sleep(LEASE_S)
    of_b = min(seq for seq in b.numbers() if seq > LEFT_OUT)
    times = {
        seq: one.record.time_us for one in b.seen if not isinstance(one.record, Gap) for seq in [one.seq]
    }
    last_of_a = max(one.record.time_us for one in a.journal if not isinstance(one.record, Gap))
    assert last_of_a < times[of_b]
    a.link.is_cut = False
    await until(lambda: a.broker.state == "standby")
    await until(lambda: a.numbers()[-1] >= b.numbers()[-1] - 1)
    assert cluster.leaders() == ["b"]


async def test_a_process_that_was_stopped_publishes_nothing_behind_its_lease(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    a.guard.until_s = -math.inf  # what it finds when it goes on
    before = len(a.journal)
    await until(lambda: bool(a.guard.dropped))
    (before_dropped,) = a.guard.dropped.values()
    await until(lambda: not a.leads)
    assert all(isinstance(one.record, Gap) for one in a.journal[before:])
    await until(lambda: bool(cluster.leaders()))
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    assert [jump > LEFT_OUT for jump in x.jumps()] == [True]
    assert "bus" not in x.causes()
    hole = next(one.record for one in x.seen if isinstance(one.record, Gap) and one.record.to_us is not None)
    assert hole.from_us <= before_dropped.time_us < hole.time_us  # it names what was dropped


async def test_the_gap_of_one_that_stood_still_begins_at_the_last_record_that_was_published(
    cluster: Cluster, autojump_clock: object
) -> None:
    a = await cluster.start("a")
    x = await cluster.start("x", leads=False)
    await until(lambda: len(x.numbers()) > 50)
    a.guard.until_s = -math.inf
    await until(lambda: bool(x.jumps()))
    before, hole = next(
        (before.record, after.record)
        for before, after in pairwise(x.seen)
        if isinstance(after.record, Gap) and after.record.cause == FAILOVER
    )
    assert isinstance(hole, Gap)
    assert hole.from_us == before.time_us


async def test_an_edge_that_began_without_the_database_asks_it_again(
    cluster: Cluster, autojump_clock: object
) -> None:
    a = await cluster.start("a")
    await until(lambda: len(a.numbers()) > 20)
    offer, a.shipper.offer = a.shipper.offer, lambda batch: None  # type: ignore[method-assign]
    cluster.database.away = True
    cluster.engine.streams.clear()
    x = await cluster.start("x", leads=False)
    await trio.sleep(1)
    assert x.followed.is_behind(TOPIC, 1)
    cluster.database.away = False
    await until(lambda: not x.followed.is_behind(TOPIC, 1), within_s=3)
    stands = x.followed.last_seq(TOPIC)
    assert stands > 0
    await trio.sleep(1)
    a.shipper.offer = offer  # type: ignore[method-assign]
    await until(lambda: len(x.numbers()) > 20)
    assert x.numbers()[0] == stands + 1
    assert x.jumps() == []


async def test_what_only_the_database_has_reaches_clients_at_a_change_of_leaders(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, x = await two_and_an_edge(cluster)
    a.shipper.offer = lambda batch: None  # type: ignore[method-assign]
    seen = len(x.numbers())
    await trio.sleep(2)
    await cluster.kill("a")
    await until(lambda: b.leads)
    await until(lambda: len(x.numbers()) > seen + 50)
    stored = sorted(seq for topic, seq in cluster.database.records if topic == TOPIC and seq < LEFT_OUT)
    for process in (x, b):
        assert {seq for seq in stored if seq >= process.numbers()[0]} <= set(process.numbers())
        assert [jump > LEFT_OUT for jump in process.jumps()] == [True]


async def test_a_symbol_of_an_edges_client_starts_and_stops_with_it(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    topic = Topic("sea", *OTHER)
    assert x.demand.hold(OTHER) == "pending"
    assert await until(lambda: len(x.numbers(topic)) > 5) < 3
    assert x.demand.status(OTHER) == "active"
    x.demand.release(OTHER)
    await until(lambda: OTHER not in a.demand.current(), within_s=3)
    count = len(a.numbers(topic))
    await trio.sleep(1)
    assert len(a.numbers(topic)) == count


async def test_a_feed_of_an_edge_that_was_killed_stops(cluster: Cluster, autojump_clock: object) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    x.demand.hold(OTHER)
    await until(lambda: OTHER in a.demand.current())
    await cluster.kill("x")
    await until(lambda: OTHER not in a.demand.current(), within_s=2 * LEASE_S)


async def test_a_refusal_reaches_the_edge_with_its_reason(cluster: Cluster, autojump_clock: object) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    a.refuses = {"GBPUSD": "no such symbol"}
    told: list[FeedChange] = []
    x.demand.watch(told.extend)
    x.demand.hold(OTHER)
    await until(lambda: bool(told))
    assert told == [FeedChange(OTHER, "refused", "no such symbol")]
    a.refuses = {}
    x.demand.release(OTHER)
    await trio.sleep(1)
    x.demand.hold(OTHER)
    await until(lambda: x.demand.status(OTHER) == "active")


async def test_demand_survives_a_change_of_leaders(cluster: Cluster, autojump_clock: object) -> None:
    _a, b, x = await two_and_an_edge(cluster)
    topic = Topic("sea", *OTHER)
    x.demand.hold(OTHER)
    await until(lambda: len(x.numbers(topic)) > 5)
    await cluster.kill("a")
    await until(lambda: b.leads)
    count = len(x.numbers(topic))
    await until(lambda: len(x.numbers(topic)) > count + 5)


async def test_an_edge_shows_a_failed_broker_and_outlives_its_leader(
    cluster: Cluster, autojump_clock: object
) -> None:
    a = await cluster.start("a")
    a.error = Rejected("the key is wrong")
    x = await cluster.start("x", leads=False)
    await until(lambda: x.broker.state == "failed")
    await cluster.kill("a")
    await until(lambda: x.broker.state == "backoff")
    b = await cluster.start("b")
    await until(lambda: x.broker.state == "live")
    assert b.leads


async def test_an_edge_that_hears_nothing_of_a_leader_names_it(
    cluster: Cluster, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    put = cluster.engine.put

    async def put_if_there_is_room(key: str, value: bytes, ttl_s: float) -> None:
        if key == answers_key("sea"):
            raise BusUnavailable("its memory is full")
        await put(key, value, ttl_s)

    monkeypatch.setattr(cluster.engine, "put", put_if_there_is_room)
    await until(lambda: x.broker.state == "backoff")
    assert a.leads
    assert x.broker.leader == "a"
    message = x.broker.snapshot().changes[0].message
    assert message.startswith("process a leads this broker, but nothing that it says is on the bus")
    monkeypatch.undo()
    await until(lambda: x.broker.state == "live")


async def test_keys_that_cannot_be_read_are_left_alone(cluster: Cluster, autojump_clock: object) -> None:
    _a, _b, x = await two_and_an_edge(cluster)
    await cluster.engine.put(demand_prefix("sea") + "stranger", b"\xc1", 60)
    x.demand.hold(OTHER)
    await until(lambda: x.demand.status(OTHER) == "active")
    await cluster.engine.put(answers_key("sea"), b"\xc1", 60)
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)


async def test_a_lease_that_the_engine_forgot_is_taken_again(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, _x = await two_and_an_edge(cluster)
    b.link.is_cut = True
    await trio.sleep(1)
    await cluster.engine.forget(lease_key("sea"))
    await trio.sleep(LEASE_S)
    assert a.leads
    assert a.sessions == 1
    assert a.jumps() == []


async def test_a_lease_that_another_had_meanwhile_is_not_taken_again(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, _x = await two_and_an_edge(cluster)
    b.link.is_cut = True
    await trio.sleep(1)
    await cluster.engine.put(holder_key("sea"), b"c", 60)
    await cluster.engine.forget(lease_key("sea"))
    await until(lambda: not a.leads)


async def test_a_damaged_clock_of_fences_is_mended_by_the_database(
    cluster: Cluster, autojump_clock: object
) -> None:
    cluster.database.noted = (41, "old")
    a = await cluster.start("a")
    await until(lambda: a.leads)
    assert a.broker.fence == 42
    assert a.broker.state in (State.STARTING, State.LIVE)


async def test_one_that_stood_still_takes_over_in_order_again(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, x = await two_and_an_edge(cluster)
    a.link.is_silent = True
    a.guard.until_s = -math.inf
    await until(lambda: b.leads)
    a.link.is_silent = False
    await until(lambda: a.broker.state == "standby")
    await trio.sleep(1)
    await cluster.stop("b")
    await until(lambda: a.leads)
    seen = len(x.numbers())
    await until(lambda: len(x.numbers()) > seen + 20)
    assert [jump > LEFT_OUT for jump in x.jumps()] == [True]


@pytest.mark.parametrize("keep_bytes", [3_000, 1 << 20])
async def test_an_edge_that_was_away_longer_than_the_bus_keeps_reads_the_database(
    cluster: Cluster, autojump_clock: object, keep_bytes: int
) -> None:
    await cluster.start("a", keep_bytes=keep_bytes)
    x = await cluster.start("x", leads=False)
    await until(lambda: len(x.numbers()) > 50)
    x.link.is_cut = True
    await trio.sleep(20 if keep_bytes == 3_000 else 2 * KEEP_S)
    last, entries = x.numbers()[-1], cluster.engine.streams[stream_key("sea")]
    assert sum(len(entry.frame) for entry in entries) <= keep_bytes
    kept = [one for entry in entries if isinstance(found := x.followed.decode(entry), list) for one in found]
    assert kept[0].seq > last + 1
    x.link.is_cut = False
    await until(lambda: x.numbers()[-1] > kept[-1].seq)
    assert x.jumps() == []
    assert x.causes() == []
    assert x.metrics.fetched.labels("sea")._value.get() >= kept[0].seq - last - 1


async def test_the_leader_streams_what_another_processs_config_names(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, b, _x = await two_and_an_edge(cluster)
    topic = Topic("sea", *OTHER)
    b.demand.pin([OTHER])
    await until(lambda: len(b.numbers(topic)) > 5 and len(a.numbers(topic)) > 5)
    assert b.demand.status(OTHER) == "active"
    assert cluster.leaders() == ["a"]


async def test_a_leader_that_serves_only_its_symbols_refuses_what_others_want_besides(
    cluster: Cluster, autojump_clock: object
) -> None:
    a, _b, x = await two_and_an_edge(cluster)
    a.demand.pin([FEED], {FEED.symbol})
    told: list[FeedChange] = []
    x.demand.watch(told.extend)
    x.demand.hold(OTHER)
    await until(lambda: bool(told))
    assert told == [
        FeedChange(OTHER, "refused", "the leader of sea serves only the symbols that its config names")
    ]
    assert not a.numbers(Topic("sea", *OTHER))
    a.demand.pin([FEED])
    x.demand.release(OTHER)
    await trio.sleep(1)
    x.demand.hold(OTHER)
    await until(lambda: x.demand.status(OTHER) == "active")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coredis", None)
    monkeypatch.delitem(sys.modules, "mdserver.bus.redis_engine", raising=False)
    with pytest.raises(ConfigError) as caught:
        import_engine()
    (problem,) = caught.value.problems
    assert "pip install 'mdserver[bus]'" in problem
