"""Several processes on one bus: two that may lead, two edges, a real Redis and a real database."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from mdserver.net import open_websocket

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
    async def open(self, name: str, role: str) -> AsyncIterator[Daemon]:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        config = write_config(
            folder,
            database={"url": self._database_url},
            bus={"url": self.redis.url, "role": role, "lease_s": LEASE_S, "keep_s": 30},
            brokers=[{"name": "mock", "rate": 200, "symbols": ["EURUSD"], "types": ["tick"]}],
        )
        async with open_daemon(config) as daemon:
            self.servers[name] = daemon
            yield daemon

    async def state(self, name: str) -> str:
        answer = (await self.servers[name].get("/api/brokers")).json()["brokers"][0]
        state: str = answer["state"]
        return state

    async def leader(self, *names: str) -> str:
        """Wait until exactly one of some servers leads; return its name."""
        with trio.fail_after(20):
            while True:
                leading = [name for name in names if await self.state(name) == "live"]
                if len(leading) == 1:
                    return leading[0]
                await trio.sleep(0.05)


class Watcher:
    """A client of a server: what it was sent of a symbol."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    @property
    def ticks(self) -> list[tuple[int, float, float]]:
        return [(m["seq"], m["time"], m["bid"]) for m in self.messages if m["type"] == "tick"]

    @property
    def gaps(self) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == "gap"]

    async def run(self, url: str, request: dict[str, Any]) -> None:
        async with open_websocket(url) as ws:
            await ws.send(json.dumps(request))
            while True:
                for text in await ws.receive():
                    self.messages.append(json.loads(text))

    async def until(self, count: int) -> None:
        """Wait for so many ticks in all."""
        with trio.fail_after(30):
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
        async with cluster.open(leader, "ingest"):
            with trio.fail_after(20):
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
