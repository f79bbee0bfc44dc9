"""Several processes on one bus: two that may lead, two edges, a real Redis and a real database."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from mdserver.net import WebSocketClosed, open_websocket
from tests.component.event_source import open_events

from .daemon import Daemon, open_daemon, write_config
from .redis import RedisServer, running_redis

LEASE_S = 2.0


class Cluster:
    """Servers by name; ``a`` and ``b`` may lead, ``x`` and ``y`` are edges."""

    def __init__(self, folder: Path, database_url: str, redis: RedisServer) -> None:
        self.servers: dict[str, Daemon] = {}
        self.redis = redis
        self._folder = folder
        self._database_url = "postgresql:///?" + urlencode(conninfo_to_dict(database_url))

    @asynccontextmanager
    async def running(self, **roles: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name, role in roles.items():
                self.servers[name] = await stack.enter_async_context(self.open(name, role))
            yield

    @asynccontextmanager
    async def open(
        self,
        name: str,
        role: str,
        brokers: Sequence[dict[str, Any]] = (
            {"name": "mock", "rate": 200, "symbols": ["EURUSD"], "types": ["tick"]},
        ),
        before: str = "",
        **server: Any,
    ) -> AsyncIterator[Daemon]:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        config = write_config(
            folder,
            database={"url": self._database_url},
            bus={"url": self.redis.url, "role": role, "lease_s": LEASE_S, "keep_s": 30},
            brokers=list(brokers),
            server=server,
        )
        async with open_daemon(config, before=before) as daemon:
            self.servers[name] = daemon
            yield daemon

    async def state(self, name: str) -> str:
        answer = (await self.servers[name].get("/api/brokers")).json()["brokers"][0]
        state: str = answer["state"]
        return state

    async def leader(self, *names: str) -> str:
        """Wait until exactly one of some servers leads; return its name."""
        with trio.fail_after(60):
            while True:
                leading = [name for name in names if await self.state(name) == "live"]
                if len(leading) == 1:
                    return leading[0]
                await trio.sleep(0.05)


class Watcher:
    """A client of a server: what it was sent of a symbol."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.texts: list[bytes] = []

    @property
    def ticks(self) -> list[tuple[int, float, float]]:
        return [(m["seq"], m["time"], m["bid"]) for m in self.messages if m["type"] == "tick"]

    @property
    def gaps(self) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == "gap"]

    async def run(self, url: str, request: dict[str, Any]) -> None:
        """Read until the server stops."""
        async with open_websocket(url) as ws:
            await ws.send(json.dumps(request))
            with suppress(WebSocketClosed):
                while True:
                    for text in await ws.receive():
                        self.texts.append(text)
                        self.messages.append(json.loads(text))

    async def until(self, count: int) -> None:
        """Wait for so many ticks in all."""
        with trio.fail_after(60):
            while len(self.ticks) < count:
                await trio.sleep(0.05)


SUBSCRIBE = {"action": "subscribe", "broker": "mock", "symbols": ["EURUSD"], "types": ["tick"]}


@pytest.fixture
def cluster(folder: Path, database_url: str) -> Any:
    with running_redis(folder) as redis:
        yield Cluster(folder, database_url, redis)


def check(ticks: Sequence[tuple[int, float, float]], jumps: int) -> None:
    """Numbers rise, and are left out at most so often."""
    numbers = [seq for seq, _, _ in ticks]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    assert all(step > 0 for step in steps)
    assert sum(step > 1 for step in steps) == jumps, [step for step in steps if step > 1]


async def edges_answer_as_the_leader(cluster: Cluster, leader: str, watchers: dict[str, Watcher]) -> None:
    """Ask for gaps, the snapshot and server-sent events what clients of the stream have seen."""
    edges = [cluster.servers[name] for name in watchers]
    with trio.fail_after(20):
        while True:
            gaps, *others = [
                (await server.get("/api/gaps", symbol="EURUSD")).json()
                for server in (cluster.servers[leader], *edges)
            ]
            if [gap["cause"] for gap in gaps["gaps"]] == ["failover"] and others == [gaps, gaps]:
                break
            await trio.sleep(0.1)
    for server, watcher in zip(edges, watchers.values(), strict=True):
        snapshot = (await server.get("/api/snapshot", symbols="EURUSD")).json()["EURUSD"]
        assert snapshot["broker"] == "mock"
        assert snapshot["candles"]["1d"]["count"] > 0
        sent = [snapshot["tick"]]
        async with open_events(int(server.base.rpartition(":")[2]), "symbols=EURUSD") as events:
            sent += [await events.get_type("tick") for _ in range(20)]
        await watcher.until(len(watcher.ticks) + 1)
        streamed = {message["seq"]: message for message in watcher.messages if message["type"] == "tick"}
        assert sent == [streamed[one["seq"]] for one in sent]
        numbers = [one["seq"] for one in sent[1:]]
        assert numbers == list(range(numbers[0], numbers[0] + 20))


@pytest.mark.slow
async def test_another_takes_over_and_every_edge_has_the_same(
    cluster: Cluster, database_url: str, nursery: trio.Nursery
) -> None:
    async with cluster.running(a="ingest", b="ingest", x="edge", y="edge"):
        leader = await cluster.leader("a", "b")
        assert await cluster.state({"a": "b", "b": "a"}[leader]) == "standby"
        watchers = {name: Watcher() for name in ("x", "y")}
        for name, watcher in watchers.items():
            nursery.start_soon(watcher.run, cluster.servers[name].ws, SUBSCRIBE)
        for watcher in watchers.values():
            await watcher.until(300)
        cluster.servers[leader].process.send_signal(signal.SIGKILL)
        other = await cluster.leader({"a": "b", "b": "a"}[leader])
        seen = {name: len(watcher.ticks) for name, watcher in watchers.items()}
        for name, watcher in watchers.items():
            await watcher.until(seen[name] + 300)
        await edges_answer_as_the_leader(cluster, other, watchers)
        async with cluster.open(leader, "ingest"):
            with trio.fail_after(60):
                while await cluster.state(leader) != "standby":
                    await trio.sleep(0.05)
            await cluster.servers[leader].stop()
        await cluster.servers[other].stop()
        nursery.cancel_scope.cancel()
    for watcher in watchers.values():
        check(watcher.ticks, jumps=1)
        assert [gap["cause"] for gap in watcher.gaps] == ["failover"]
    x, y = (watcher.ticks for watcher in watchers.values())
    first, last = max(x[0], y[0]), min(x[-1], y[-1])
    assert [tick for tick in x if first <= tick <= last] == [tick for tick in y if first <= tick <= last]
    with psycopg.connect(database_url) as conn:
        stored = conn.execute(
            "select seq, extract(epoch from time)::float8, bid from ticks order by seq"
        ).fetchall()
    by_seq = {seq: (seq, time, bid) for seq, time, bid in stored}
    assert len(by_seq) == len(stored)
    assert [by_seq.get(seq) for seq, _, _ in x] == [(seq, pytest.approx(time), bid) for seq, time, bid in x]
    assert len({time for _, time, _ in stored}) == len(stored)


async def _replayed(server: Daemon, since: int, count: int) -> list[dict[str, Any]]:
    """Subscribe behind a number; return so many ticks."""
    found: list[dict[str, Any]] = []
    async with open_websocket(server.ws) as ws:
        await ws.send(json.dumps({**SUBSCRIBE, "since": {"seq": since}, "received": True}))
        with trio.fail_after(60):
            while len(found) < count:
                found += [m for m in map(json.loads, await ws.receive()) if m["type"] == "tick"]
    return found[:count]


@pytest.mark.slow
async def test_an_edge_replays_as_the_leader_does_and_a_redis_that_is_empty_again_leaves_no_hole(
    cluster: Cluster, nursery: trio.Nursery
) -> None:
    async with cluster.running(a="ingest", x="edge"):
        await cluster.leader("a")
        watcher = Watcher()
        nursery.start_soon(watcher.run, cluster.servers["x"].ws, SUBSCRIBE)
        await watcher.until(100)
        shared = {
            name: (await cluster.servers[name].get("/api/brokers")).json()["brokers"][0]["bus"]
            for name in "ax"
        }
        assert (
            shared["a"]["leader"] == shared["x"]["leader"] == shared["a"]["process"] != shared["x"]["process"]
        )
        assert shared["a"]["fence"] == shared["x"]["fence"] > 0
        assert shared["a"]["lag"] is None
        assert -1 < shared["x"]["lag"] < 5
        with trio.fail_after(60):
            for name, leads in ("a", "1.0"), ("x", "0.0"):
                line = f'mdserver_bus_leads{{broker="mock"}} {leads}'
                while line not in (await cluster.servers[name].get("/metrics")).text:
                    await trio.sleep(0.1)
        cluster.redis.kill()
        with trio.fail_after(60):
            while await cluster.state("x") != "backoff":
                await trio.sleep(0.05)
        assert await cluster.state("a") == "live"
        seen = len(watcher.ticks)
        await trio.to_thread.run_sync(cluster.redis.start)
        await watcher.until(seen + 200)
        check(watcher.ticks, jumps=0)
        since = watcher.ticks[20][0]
        replays = [await _replayed(cluster.servers[name], since, 150) for name in ("x", "a")]
        assert replays[0] == replays[1]
        assert [one["seq"] for one in replays[0]] == list(range(since + 1, since + 151))
        candles = [
            (await cluster.servers[name].get("/api/candles", symbol="EURUSD", timeframe="1m")).json()
            for name in ("x", "a")
        ]
        closed = [answer["candles"][:-1] if "candles" in answer else answer for answer in candles]
        assert closed[0] == closed[1]
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_leader_that_stands_still_publishes_nothing_behind_the_next_and_one_in_order_leaves_no_number_out(
    cluster: Cluster, database_url: str, nursery: trio.Nursery
) -> None:
    async with cluster.running(a="ingest", b="all"):
        leader = await cluster.leader("a", "b")
        other = {"a": "b", "b": "a"}[leader]
        watcher = Watcher()
        nursery.start_soon(watcher.run, cluster.servers[other].ws, SUBSCRIBE)
        await watcher.until(100)
        cluster.servers[leader].process.send_signal(signal.SIGSTOP)
        await cluster.leader(other)
        seen = len(watcher.ticks)
        await watcher.until(seen + 100)
        cluster.servers[leader].process.send_signal(signal.SIGCONT)
        with trio.fail_after(60):
            while await cluster.state(leader) != "standby":
                await trio.sleep(0.05)
        check(watcher.ticks, jumps=1)
        follower = Watcher()
        nursery.start_soon(follower.run, cluster.servers[leader].ws, SUBSCRIBE)
        await follower.until(50)
        await cluster.servers[other].stop()
        await cluster.leader(leader)
        seen = len(follower.ticks)
        await follower.until(seen + 100)
        check(follower.ticks, jumps=0)
        await cluster.servers[leader].stop()
        nursery.cancel_scope.cancel()
    with psycopg.connect(database_url) as conn:
        stored = conn.execute("select seq, time from ticks order by seq").fetchall()
    assert len({seq for seq, _ in stored}) == len({time for _, time in stored}) == len(stored)
    assert [time for _, time in stored] == sorted(time for _, time in stored)
    numbers = {seq for seq, _ in stored}
    assert {seq for seq, _, _ in (*watcher.ticks, *follower.ticks)} <= numbers


FASTER = 60
"""A minute passes in a second, so that candles close."""


def faster_from(began: float) -> str:
    """Return code that makes the clock of a process run faster, from a time on."""
    return (
        "import time; real = time.time\n"
        f"time.time = lambda: {began} + {FASTER} * (real() - {began})\n"
        "time.time_ns = lambda: int(time.time() * 1e9)"
    )


@pytest.mark.slow
async def test_a_venue_is_split_over_two_ingests_and_an_edge_has_the_candles_of_both(
    cluster: Cluster, nursery: trio.Nursery
) -> None:
    parts = [
        {"name": f"part-{letter}", "plugin": "mock", "rate": 100, "seed": seed, "symbols": [symbol]}
        | {"types": ["tick"], "only_symbols": True}
        for seed, (letter, symbol) in enumerate([("a", "EURUSD"), ("b", "GBPUSD")], 1)
    ]
    before, patient = faster_from(time.time()), {"candle_grace_ms": FASTER * 1000}
    async with (
        cluster.open("a", "ingest", parts[:1], before, **patient),
        cluster.open("b", "ingest", parts[1:], before, **patient),
        cluster.open("x", "edge", parts, before, **patient),
    ):
        edge = cluster.servers["x"]
        with trio.fail_after(60):
            while [one["state"] for one in (await edge.get("/api/brokers")).json()["brokers"]] != [
                "live"
            ] * 2:
                await trio.sleep(0.05)
        wanted = {"action": "subscribe", "symbols": ["GBPUSD"], "types": ["candle", "tick"]}
        watchers = {name: Watcher() for name in ("b", "x")}
        for name, watcher in watchers.items():
            nursery.start_soon(watcher.run, cluster.servers[name].ws, wanted)
        foreign = Watcher()
        nursery.start_soon(
            foreign.run,
            edge.ws,
            {**wanted, "broker": "part-a", "symbols": ["GBPUSD", "EURUSD"], "types": ["tick"]},
        )

        def closed(name: str) -> dict[float, bytes]:
            return {
                json.loads(text)["time"]: text for text in watchers[name].texts if b'"closed":true' in text
            }

        with trio.fail_after(60):
            while len(common := closed("x").keys() & closed("b").keys()) < 3:
                await trio.sleep(0.05)
        assert [closed("x")[at] for at in common] == [closed("b")[at] for at in common]
        assert {one["broker"] for one in watchers["x"].messages if one["type"] == "tick"} == {"part-b"}
        results = next(one for one in foreign.messages if one["type"] == "ack")["results"]
        refused = next(one for one in results if one["symbol"] == "GBPUSD")
        assert "part-a serves only the symbols that its config names" in refused["message"]
        assert {one["symbol"] for one in foreign.messages if one["type"] == "tick"} == {"EURUSD"}
        last = json.loads(closed("x")[min(common)])
        times = {"from": int(last["time"]), "to": int(last["time"]) + 60}
        for server in edge, cluster.servers["b"]:
            answer = await server.get(
                "/api/candles",
                symbol="GBPUSD",
                timeframe="1m",
                fields="time,open,high,low,close,volume,count",
                **times,
            )
            stored = next(one for one in answer.json() if one["time"] == last["time"])
            assert stored == {key: last[key] for key in stored}
        nursery.cancel_scope.cancel()
