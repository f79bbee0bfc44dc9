"""The client session against a model of it: any order of requests, publishing, slow reading and leaving.

The session, its replays and the router are the real ones; the stored past lies in memory, and the socket takes as much
as the test says. The model is a client: it checks each frame against what it may get next.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdserver.config import ServerConfig
from mdserver.errors import StoreUnavailable
from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.feed.supervised_broker import SupervisedBroker
from mdserver.metrics import Metrics
from mdserver.model import Feed, Gap, Published, Record, Tick, Topic, Trade
from mdserver.plugin import BrokerPlugin
from mdserver.protocol.encoding import PLAIN
from mdserver.protocol.server_frames import payloads
from mdserver.stream import replay as replay_module
from mdserver.stream.replay import Replays
from mdserver.stream.router import Router
from mdserver.stream.stored_past import After, Begin, GapKey, Page, Start, gap_key
from mdserver.web.access.access import Access
from mdserver.web.stream import backlog
from mdserver.web.stream.gate import Gate
from mdserver.web.stream.session import Session
from mdserver.web.stream.sink import BaseSink
from mdserver.web.stream.subscribers import Subscribers

T0_US = 1_780_000_000_000_000
EPOCH = "5f3a9c21"
TOPICS = [Topic("one", symbol, kind) for symbol in ("AAA", "BBB") for kind in ("tick", "trade")]
BUFFER_BYTES = 6_000
Key = tuple[str, str]


class MemoryPast:
    """A :class:`~mdserver.stream.stored_past.StoredPast`: what was published, stored when somebody asks for it."""

    def __init__(self) -> None:
        self.published: dict[Topic, list[Published]] = {topic: [] for topic in TOPICS}
        self.stored: dict[Topic, int] = dict.fromkeys(TOPICS, 0)
        self.away = False
        self.prompt = trio.Event()
        self.prompt.set()

    def add(self, batch: list[Published]) -> None:
        for published in batch:
            self.published[published.topic].append(published)

    def last(self, topic: Topic) -> int:
        return max((one.seq for one in self.published[topic] if not is_gap(one)), default=0)

    def gaps(self, topic: Topic) -> list[int]:
        """The numbers behind which an ended gap lies."""
        return [one.seq for one in self.published[topic] if is_gap(one) and not lasts(one)]

    async def caught_up(self) -> None:
        marks = {topic: len(published) for topic, published in self.published.items()}
        await self.prompt.wait()
        await trio.lowlevel.checkpoint()
        self._check()
        for topic, mark in marks.items():
            self.stored[topic] = max(self.stored[topic], mark)

    def is_behind(self, after: Mapping[Topic, int]) -> bool:
        return False

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        await trio.lowlevel.checkpoint()
        self._check()
        return {topic: self._begin(topic, start) for topic, start in starts.items()}

    def _begin(self, topic: Topic, start: Start) -> Begin:
        last = self._last_stored(topic)
        if isinstance(start, After):
            return Begin(start.seq, "above" if start.seq > last else None)
        first = next((n for n in range(1, last + 1) if T0_US + n * 1_000 >= start.time_us), last + 1)
        return Begin(first - 1)

    async def last_seqs(self, topics: Collection[Topic]) -> Mapping[Topic, int]:
        await trio.lowlevel.checkpoint()
        self._check()
        return {topic: max((one.seq for one in self._rows(topic)), default=0) for topic in topics}

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey] = frozenset()
    ) -> Page:
        await trio.lowlevel.checkpoint()
        self._check()
        rows = [one for one in self._rows(topic) if not is_gap(one) and one.seq > after]
        more, rows = len(rows) > limit, rows[:limit]
        end = rows[-1].seq if rows else after
        gaps = [
            one
            for one in self._rows(topic)
            if isinstance(one.record, Gap) and one.seq >= after and (one.seq <= end or not more)
        ]
        fresh = [one for one in gaps if one.seq > after or gap_key(one.record) not in told]  # type: ignore[arg-type]
        merged = sorted([*rows, *fresh], key=lambda one: (one.seq, is_gap(one)))
        pieces = [PLAIN.frame(one) for one in merged]
        known = frozenset(gap_key(one.record) for one in gaps if one.seq >= end)  # type: ignore[arg-type]
        return Page(pieces, len(rows), end, more, known)

    def _rows(self, topic: Topic) -> Iterator[Published]:
        return (one for one in self.published[topic][: self.stored[topic]] if not lasts(one))

    def _last_stored(self, topic: Topic) -> int:
        return max((one.seq for one in self._rows(topic) if not is_gap(one)), default=0)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


def is_gap(published: Published) -> bool:
    return isinstance(published.record, Gap)


def lasts(published: Published) -> bool:
    return isinstance(published.record, Gap) and published.record.to_us is None


class PacedSink(BaseSink):
    """Takes as many bytes as it was allowed to; ``taken`` are those."""

    __slots__ = ("allowed", "more", "taken")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.allowed: float = 0
        self.more = trio.Event()
        self.taken = bytearray()

    def allow(self, count: float) -> None:
        self.allowed += count
        self.more.set()
        self.more = trio.Event()

    def _send_now(self, frames: bytes) -> bytes:
        count = int(min(len(frames), self.allowed))
        self.taken += frames[:count]
        self.allowed -= count
        return frames[count:]

    async def _send_rest(self, data: bytes) -> None:
        while data := self._send_now(data):
            await self.more.wait()


class Client:
    """What one connection may get. ``last``: by topic the number before the next one; None: any that is higher."""

    def __init__(self, past: MemoryPast) -> None:
        self.past = past
        self.held: set[Key] = set()
        self.last: dict[Key, int] = {}
        self.exact: dict[Key, bool] = {}
        self.gaps: dict[Key, int] = {}
        self.asked: dict[int, dict[str, Any]] = {}
        self.replaying: dict[int, set[Key]] = {}
        self.over = False

    def take(self, message: dict[str, Any]) -> None:
        assert not self.over, f"after the end: {message}"
        match message["type"]:
            case "tick" | "trade":
                self._take_record(message)
            case "gap" if "to" in message:
                key = message["symbol"], message["record_type"]
                assert key in self.held, message
                self.gaps[key] = self.gaps.get(key, 0) + 1
            case "ack":
                self._take_ack(message)
            case "error":
                self._take_error(message)
            case "status" if message["message"] == "replay complete":
                for _, symbol, kind, seq in message["seqs"]:
                    key = symbol, kind
                    assert not self.exact[key] or self.last[key] == seq, (message, self.last)
                self.replaying.pop(message["id"])

    def _take_record(self, message: dict[str, Any]) -> None:
        key, seq = (message["symbol"], message["type"]), message["seq"]
        assert key in self.held, message
        last = self.last[key]
        assert seq > last, (message, last)
        if self.exact[key]:
            assert seq == last + 1 + message.get("conflated", 0), (message, last)
            assert message["type"] == "tick" or "conflated" not in message
            between = sum(last <= one < seq for one in self.past.gaps(Topic("one", *key)))
            assert self.gaps.pop(key, 0) == between, (message, last)
        self.gaps.pop(key, None)
        self.last[key], self.exact[key] = seq, True

    def _take_ack(self, message: dict[str, Any]) -> None:
        request = self.asked[message["id"]]
        now = {(one["symbol"], one["type"]) for one in message["subscriptions"]}
        for result in message["results"]:
            key = result["symbol"], result["type"]
            if request["action"] != "subscribe" or key not in now or request.get("answered"):
                continue
            start = request["starts"].get(key)
            if "recovered" in result:
                for others in self.replaying.values():
                    others.discard(key)
                self.replaying.setdefault(message["id"], set()).add(key)
                self.last[key], self.exact[key] = start, True
                self.gaps.pop(key, None)
            elif key not in self.held:
                self.last[key], self.exact[key] = request["live"][key], True
                self.gaps.pop(key, None)
        request["answered"] = True
        self.held = now
        for keys in self.replaying.values():
            keys &= now

    def _take_error(self, message: dict[str, Any]) -> None:
        if message["code"] == 407:
            self.over = True
            return
        assert message["code"] == 410, message
        # what lies between the last number and the next one is missing, and the client knows it
        for key in self.replaying.pop(message["id"], ()):
            self.exact[key] = False


class World:
    """A broker, a router, a past and one client at a time."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.metrics = Metrics()
        self.router = Router(self.metrics)
        self.past = MemoryPast()
        self.demand = BrokerDemand([Feed(*topic[1:]) for topic in TOPICS])
        self.host = Host(
            "one",
            self.demand,
            emit=self._emit,
            last_records={},
            metrics=self.metrics,
            log=structlog.get_logger(),
        )
        self.host.confirm(self.demand.current())
        plugin = BrokerPlugin("one", "", object, lambda _: None, types=("tick", "trade"))  # type: ignore[arg-type,return-value]
        self.broker = SupervisedBroker(plugin, lambda: None, self.demand, self.host, self.metrics)  # type: ignore[arg-type,return-value]
        self.holders = Subscribers()
        self.holders.watch(self.broker)
        self.replays = Replays(self.past, self.router, self.metrics)
        self.requests = 0
        self.connect()

    def _emit(self, batch: list[Published]) -> None:
        self.past.add(batch)
        self.router.publish(batch)

    def connect(self) -> None:
        self.client = Client(self.past)
        self.rest = b""
        self.scope = trio.CancelScope()
        self.inbox, receive = trio.open_memory_channel[dict[str, Any]](100)
        self.nursery.start_soon(self._serve, self.scope, receive)

    async def _serve(self, scope: trio.CancelScope, inbox: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                sink = PacedSink(nursery.start_soon, BUFFER_BYTES, self.metrics, lambda: session.overflow())
                self.sink = sink
                session = Session(
                    sink,
                    nursery.start_soon,
                    brokers={"one": self.broker},
                    router=self.router,
                    replays=self.replays,
                    epoch=EPOCH,
                    holders=self.holders,
                    metrics=self.metrics,
                    max_symbols=100,
                    gate=Gate(Access(ServerConfig(), self.metrics), "127.0.0.1"),
                )
                try:
                    with session.reading:
                        while True:
                            request = await inbox.receive()
                            sent = {name: value for name, value in request.items() if name in SENT}
                            await session.handle(json.dumps(sent))
                            # no checkpoint since the topics went to the router
                            live = {topic[1:3]: self.past.last(topic) for topic in TOPICS}
                            request.setdefault("live", live)
                    await trio.sleep_forever()
                finally:
                    sink.mute()
                    session.leave()
                    while session.release_some():
                        pass

    def leave(self) -> None:
        self.scope.cancel()

    def publish(self, topic: Topic, count: int) -> None:
        for _ in range(count):
            seq = self.past.last(topic) + 1
            at_us = T0_US + seq * 1_000
            tick = topic.type == "tick"
            record: Record = (
                Tick(topic.symbol, at_us, 1.0, 1.1) if tick else Trade(topic.symbol, at_us, 1.0, 1.0)
            )
            self.host.publish([record])

    def ask(self, request: dict[str, Any]) -> None:
        self.requests += 1
        request["id"] = self.requests
        self.client.asked[self.requests] = request
        self.inbox.send_nowait(request)

    def subscribe(self, topics: list[Topic], since: str, back: int) -> None:
        symbols, types = sorted({t.symbol for t in topics}), sorted({t.type for t in topics})
        keys = [(symbol, kind) for symbol in symbols for kind in types]
        request: dict[str, Any] = {"action": "subscribe", "symbols": symbols, "types": types, "starts": {}}
        lasts = {key: max(0, self.past.last(Topic("one", *key)) - back) for key in keys}
        if since == "seqs":
            request["since"] = {"epoch": EPOCH, "seqs": [["one", *key, seq] for key, seq in lasts.items()]}
            request["starts"] = lasts
        elif since == "time":
            first = 1 + min(lasts.values())
            request["since"] = (T0_US + first * 1_000) / 1e6
            request["starts"] = dict.fromkeys(keys, first - 1)
        self.ask(request)

    def read(self, count: float) -> None:
        """Let the client take bytes, and look at the whole frames among them."""
        self.sink.allow(count)

    def look(self) -> None:
        data = self.rest + bytes(self.sink.taken)
        self.sink.taken.clear()
        whole = whole_frames(data)
        self.rest = data[whole:]
        for payload in payloads(data[:whole]):
            self.client.take(json.loads(payload))


SENT = ("action", "id", "symbols", "types", "since")


def whole_frames(data: bytes) -> int:
    """Return how many bytes of whole frames the data begin with."""
    at = 0
    while len(data) - at >= 2:
        size, head = data[at + 1], 2
        if size == 126:
            if len(data) - at < 4:
                break
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        if len(data) - at < head + size:
            break
        at += head + size
    return at


async def settle(world: World) -> None:
    await trio.testing.wait_all_tasks_blocked()
    world.look()
    if world.client.over:
        world.leave()
        await trio.testing.wait_all_tasks_blocked()
        world.connect()
        await trio.testing.wait_all_tasks_blocked()


async def act(  # noqa: C901 - one case for each step
    world: World, step: tuple[Any, ...]
) -> None:
    match step:
        case "publish", topic, count:
            world.publish(topic, count)
        case "gap", topic:
            world.host.gap("missed", [Feed(*topic[1:])])
        case "subscribe", topics, since, back:
            world.subscribe(topics, since, back)
        case "unsubscribe", topics:
            world.ask({"action": "unsubscribe", **({"symbols": [topics[0].symbol]} if topics else {})})
        case "read", count:
            world.read(count)
        case "leave":
            world.leave()
            await trio.testing.wait_all_tasks_blocked()
            world.connect()
            await trio.testing.wait_all_tasks_blocked()
        case "away", away:
            world.past.away = away
        case "slow store", slow:
            if slow and world.past.prompt.is_set():
                world.past.prompt = trio.Event()
            elif not slow:
                world.past.prompt.set()
        case "step":
            await trio.lowlevel.checkpoint()
        case "settle":
            await settle(world)


topics = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)
steps = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 12)),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 12)),
    st.tuples(st.just("gap"), st.sampled_from(TOPICS)),
    st.tuples(st.just("subscribe"), topics, st.sampled_from(["", "seqs", "time"]), st.integers(0, 20)),
    st.tuples(st.just("unsubscribe"), st.one_of(st.just([]), topics)),
    st.tuples(st.just("read"), st.integers(1, 3_000)),
    st.tuples(st.just("read"), st.integers(1, 200)),
    st.just(("leave",)),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("slow store"), st.booleans()),
    st.just(("step",)),
    st.just(("settle",)),
    st.just(("settle",)),
)


async def run(script: list[tuple[Any, ...]]) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await trio.testing.wait_all_tasks_blocked()
        for topic in TOPICS:
            world.publish(topic, 5)
        world.subscribe(TOPICS, "", 0)
        await settle(world)
        for step in script:
            await act(world, step)
        # the end: all comes that is owed, and then nothing is
        world.past.away = False
        world.past.prompt.set()
        for _ in range(3):
            await settle(world)
            world.read(1e9)
        for topic in TOPICS:
            world.publish(topic, 1)
        await settle(world)
        for key in world.client.held:
            assert world.client.last[key] == world.past.last(Topic("one", *key)), key
        assert not any(world.client.replaying.values())
        nursery.cancel_scope.cancel()


@contextmanager
def small_sizes() -> Iterator[None]:
    """Make pages, tails and chunks so small that a few records fill them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "FIRST_RECORDS", 2)
        patch.setattr(replay_module, "MOST_RECORDS", 6)
        patch.setattr(replay_module, "TAIL_BYTES", 900)
        patch.setattr(replay_module, "HAND_OVER_BYTES", 300)
        patch.setattr(backlog, "CHUNK_BYTES", 400)
        yield


def test_a_client_gets_what_the_model_says(*, long: bool) -> None:
    @settings(
        max_examples=3_000 if long else 120,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=not long,
    )
    @given(st.lists(steps, min_size=5, max_size=60))
    def check(script: list[tuple[Any, ...]]) -> None:
        trio.run(partial(run, script), clock=trio.testing.MockClock())

    with small_sizes():
        check()
