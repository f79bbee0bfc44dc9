"""A cluster under faults for long: do the memory and the descriptors of its processes stay what they were?

    python scale_soak.py [--seed 1] [--minutes 20] [--clients 8] [--every 6]

Fake Binance and Kraken with faults of their own, two ingests, two edges, a Redis and a PostgreSQL on loopback. The
faults are those of ``scale_chaos.py`` that no process ends by: frozen, cut off from Redis, the database or both, Redis
killed, frozen and emptied. Clients resume on any edge. Exit code 1 where a process has grown or ended, or a client
missed a trade that nobody explained. Kills its own children only.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psutil
import soak
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from mdserver.errors import Unavailable
from mdserver.net import open_websocket
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.kraken import FakeKraken, KrakenRules, open_fake_kraken
from tests.clusters import reachable_folder, running_postgres
from tests.integration.chaos_run import EDGES, KINDS, PROCESSES, Chaos, Server, open_server, planned
from tests.integration.redis import RedisServer, running_redis

STEPS_PER_S = 10.0
"""Of each symbol; each is some trades, a price and a change of the book."""
LOOK_S = 5.0
CALM_S = 20.0
MOST_GROWTH = 0.10
MOST_FILES = 4
"""So many more a process may have open at the end: a pool of connections is not always full."""
BROKERS = ("binance", "kraken")
SYMBOLS = {broker: soak.SYMBOLS[broker] for broker in BROKERS}
TYPES = ["trade", "tick", "orderbook"]


@attrs.define
class Client:
    """A client of any edge that leaves now and then and resumes; of trades it must miss none unexplained."""

    epoch: str = ""
    last: dict[tuple[str, str, str], int] = attrs.Factory(dict)
    explained: set[tuple[str, str, str]] = attrs.Factory(set)
    records: int = 0
    connections: int = 0
    wrong: list[str] = attrs.Factory(list)

    async def run(self, ports: Sequence[int], chance: random.Random) -> None:
        """Be connected for ever."""
        while True:
            try:
                with trio.move_on_after(chance.choice((3.0, 20.0, 120.0))):
                    async with open_websocket(f"ws://127.0.0.1:{chance.choice(ports)}/") as ws:
                        self.connections += 1
                        for broker in BROKERS:
                            await ws.send(json.dumps(self._request(broker)))
                        while True:
                            for text in await ws.receive():
                                self._take(json.loads(text))
            except Unavailable:
                await trio.sleep(chance.uniform(0.05, 0.3))

    def _request(self, broker: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "action": "subscribe",
            "broker": broker,
            "symbols": list(SYMBOLS[broker]),
            "types": [*TYPES, "candle"],
        }
        rows = [
            [*topic, seq] for topic, seq in self.last.items() if topic[0] == broker and topic[2] == "trade"
        ]
        return request | ({"since": {"epoch": self.epoch, "seqs": rows}} if rows else {})

    def _take(self, message: dict[str, Any]) -> None:
        self.epoch = message.get("epoch", self.epoch)
        if message["type"] == "gap":
            self.explained.add((message["broker"], message["symbol"], message["record_type"]))
        elif message["type"] == "error" and message["code"] == 410:
            raise Unavailable(message["message"])
        elif message["type"] == "trade":
            topic, seq = (message["broker"], message["symbol"], "trade"), message["seq"]
            last = self.last.get(topic)
            if last is not None and (seq <= last or (seq > last + 1 and topic not in self.explained)):
                self.wrong.append(f"{topic}: {seq} after {last}")
            self.last[topic] = seq
            self.explained.discard(topic)
            self.records += 1


@attrs.define
class Looked:
    """What a process needed, each time that was looked at."""

    megabytes: list[float] = attrs.Factory(list)
    files: list[int] = attrs.Factory(list)

    def told(self, name: str) -> tuple[str, list[str]]:
        """Return a line for the report, and what is wrong."""
        part = max(1, len(self.files) // 5)
        memory = [
            statistics.median(some) for some in (self.megabytes[part : 2 * part], self.megabytes[-part:])
        ]
        files = [statistics.median(some) for some in (self.files[part : 2 * part], self.files[-part:])]
        line = (
            f"{name}: {memory[0]:.1f} MB in the second fifth, {memory[1]:.1f} in the last, "
            f"{max(self.megabytes):.1f} at most; descriptors {files[0]:.0f}, {files[1]:.0f}, {max(self.files)}"
        )
        wrong = []
        if memory[1] > memory[0] * (1 + MOST_GROWTH):
            wrong.append(f"{name} has grown from {memory[0]:.1f} to {memory[1]:.1f} MB")
        if files[1] > files[0] + MOST_FILES:
            wrong.append(f"{name} had {files[0]:.0f} descriptors and has {files[1]:.0f}")
        return line, wrong


async def run(
    folder: Path,
    database_url: str,
    redis: RedisServer,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> list[str]:
    """Run all; return what is wrong."""
    seconds, chance = 60 * options.minutes, random.Random(options.seed)
    kinds = [kind for kind in KINDS if kind[0] not in ("kill", "end")]
    plan = planned(options.seed, int(seconds / options.every), seconds - CALM_S, kinds)
    async with (
        open_fake_binance(BinanceRules(pace_s=math.inf, max_connects=100_000)) as binance,
        open_fake_kraken(
            KrakenRules(pace_s=math.inf, heartbeat_s=0.5, max_connects=100_000, rest_per_s=5.0)
        ) as kraken,
        trio.open_nursery() as nursery,
    ):
        brokers = _brokers(binance, kraken)
        servers = [
            await open_server(nursery, folder, name, database_url, redis.port, brokers) for name in PROCESSES
        ]
        looked = {server.name: Looked() for server in servers}
        for server in servers:
            server.start()
            nursery.start_soon(server.run)
        with trio.fail_after(120):
            while not all(server.is_ready for server in servers):  # noqa: ASYNC110 - four, no event of all
                await trio.sleep(0.1)
        clients = [Client() for _ in range(options.clients)]
        ports = [server.port for server in servers if server.name in EDGES]
        for client in clients:
            nursery.start_soon(client.run, ports, random.Random(chance.random()))
        for symbol in SYMBOLS["binance"].values():
            nursery.start_soon(_drive, partial(binance.step, symbol), random.Random(chance.random()))
        for symbol in SYMBOLS["kraken"].values():
            nursery.start_soon(_drive, partial(_step, kraken, symbol), random.Random(chance.random()))
        nursery.start_soon(_look, servers, looked)
        venues = [soak.of_binance(binance), soak.of_kraken(kraken)]
        try:
            async with trio.open_nursery() as faults:
                for venue in venues:
                    until = trio.current_time() + seconds - CALM_S
                    faults.start_soon(venue.run_faults, random.Random(chance.random()), until)
                await Chaos(servers, redis, say).run(plan)
            await trio.sleep(CALM_S)
            for server in servers:
                await server.end(signal.SIGTERM)
            nursery.cancel_scope.cancel()
        finally:
            for server in servers:
                server.send(signal.SIGCONT)
            redis.send(signal.SIGCONT)
    print(f"faults {len(plan)}, of the venues {sum(len(venue.done) for venue in venues)}")
    print(
        f"connections {sum(one.connections for one in clients)}, trades {sum(one.records for one in clients):,}"
    )
    wrong = [text for part in (*servers, *clients) for text in part.wrong]
    for server in servers:
        line, grown = looked[server.name].told(server.name)
        print(f"{line}; took over {server.events['this process leads the broker']} times")
        wrong += grown
    return wrong


def _brokers(binance: FakeBinance, kraken: FakeKraken) -> list[dict[str, Any]]:
    backoff = {"first_s": 0.2, "most_s": 1.0}
    urls = {"binance": (binance.url, binance.rest_url), "kraken": (kraken.url, kraken.rest_url)}
    return [
        {"name": name, "url": url, "rest_url": rest_url, "silence_s": 2.0, "backoff": backoff}
        | {"symbols": list(SYMBOLS[name]), "types": TYPES}
        for name, (url, rest_url) in urls.items()
    ]


async def _step(kraken: FakeKraken, symbol: str) -> None:
    kraken.step(symbol)


async def _drive(step: Callable[[], Any], chance: random.Random) -> None:
    while True:
        await trio.sleep(chance.expovariate(STEPS_PER_S))
        await step()


async def _look(servers: Sequence[Server], looked: dict[str, Looked]) -> None:
    while True:
        await trio.sleep(LOOK_S)
        for server in servers:
            if server.is_ready and server.daemon is not None:
                process = psutil.Process(server.daemon.process.pid)
                looked[server.name].megabytes.append(process.memory_info().rss / 1e6)
                looked[server.name].files.append(process.num_fds())


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two faults, on average")
    parser.add_argument("--keep", type=Path, help="a folder to keep configs and logs in")
    options = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {text}", flush=True)

    with reachable_folder() as own, running_postgres("auto") as url:
        folder = options.keep or own
        folder.mkdir(exist_ok=True)
        with running_redis(folder) as redis:
            wrong = trio.run(partial(run, folder, url, redis, options, say))
    print("\n".join(wrong[:50]) or "nothing wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
