"""What several processes cost and carry: the bus alone, an edge against a single server, two edges against one.

    python benchmarks/scale.py [--rounds N] [--seconds S] [--only bus,through,fanout,latency,edges]

Each part takes less than a minute; all of them run over a Redis and a PostgreSQL of our own on loopback, and the table
at the end is for RESULTS.md. CPU time is that of the process named, without Redis and the database.

* ``bus``: batches of 20 ticks, and of one, through the shipper onto a stream and through the follower, in one process.
  The fastest round counts, since the others show what else the machine did.
* ``through``: a leader in one process, a follower with its router in another, as fast as they can; no journal and no
  clients. "By CPU" is what the busier of both carries with a core of its own.
* ``fanout``: CPU per delivery of an edge against that of a single server that does not store, whose CPU includes its
  broker.
* ``latency``: from a venue's socket to a client of an edge and of a single server that stores, one trade at a time.
* ``edges``: CPU per delivery of one edge (before and after) and of two at once, each with its own clients. Where each
  has a core of its own two deliver so many times what one does; here load clients, Redis, database and ingest share
  the cores. An edge that has to wait for a core takes several records at once, which is cheaper: more than 2 says that.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import harness
import trio
import yaml
from harness import Result, Server
from psycopg.conninfo import conninfo_to_dict

sys.path.insert(0, str(Path(__file__).parents[1]))

from mdserver.bus.engine import BusUnavailable, Position
from mdserver.bus.followed import Followed
from mdserver.bus.names import stream_key
from mdserver.bus.redis_engine import RedisEngine, open_redis
from mdserver.bus.shipper import Shipper
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic
from mdserver.stream.router import Router
from tests.clusters import running_postgres

BATCH = 20
MOST = 200
TOPIC = Topic("sea", "EURUSD", "tick")
WAITING_BYTES = 4 << 20
"""So much may wait at a leader before the next batch is made."""
THROUGH_S = 100.0
"""Bound on one round from process to process: a busy machine takes longer than a quiet one."""
RATE, CLIENTS, SYMBOLS = 1_000, 50, 10
TRADED, TRADES = "BTCUSDT", 1_000

Row = tuple[str, str, str]
"""What, measured, goal."""


class World(NamedTuple):
    """What all processes share."""

    redis: str
    database: str
    folder: Path


async def nothing_missing(
    topic: Topic, after: int, before: int, from_us: int, to_us: int
) -> Sequence[Published]:
    """Stand for the database, which is not asked: nothing is missing."""
    await trio.lowlevel.checkpoint()
    return ()


def batches(count: int, first: int, size: int = BATCH) -> Iterator[list[Published]]:
    """Yield so many batches of made-up ticks."""
    for begin in range(first, first + count * size, size):
        yield [
            Published(TOPIC, seq, Tick("EURUSD", 1_700_000_000_000_000 + seq, 1.08703, 1.08705, 1e6, 5e5))
            for seq in range(begin, begin + size)
        ]


def follow(route: Callable[[list[Published]], None], metrics: Metrics) -> Followed:
    followed = Followed(
        "sea", route=route, on_stored=lambda _: None, missing=nothing_missing, metrics=metrics
    )
    followed.primed = True
    return followed


def ship(engine: RedisEngine, metrics: Metrics, fence: int) -> Shipper:
    shipper = Shipper(engine, metrics, max_bytes=1 << 30, keep_s=60, keep_bytes=1 << 30)
    shipper.lead("sea", fence, lambda: None)
    return shipper


# -- the bus alone ---------------------------------------------------------------------------------------------


async def measure_bus(world: World, options: argparse.Namespace, size: int) -> list[Row]:
    """Measure with batches of so many records."""
    metrics, got = Metrics(), 0
    leader, follower, wall, waits = [], [], [], []
    count = options.batches
    of = f"in batches of {size}, µs of CPU a record"

    def route(batch: list[Published]) -> None:
        nonlocal got
        got += len(batch)

    followed, stream = follow(route, metrics), stream_key("sea")
    async with open_redis(world.redis, name="benchmark") as engine, trio.open_nursery() as nursery:
        shipper = ship(engine, metrics, 1)

        async def read() -> None:
            found = await engine.read({stream: followed.position}, most=MOST, wait_s=1)
            await followed.take(found.get(stream, ()))

        await nursery.start(shipper.run)
        for number in range(options.bus_rounds):
            made = list(batches(count, 1 + number * count * size, size))
            began, began_cpu = time.perf_counter(), time.process_time()
            for batch in made:
                shipper.offer(batch)
            await shipper.shipped("sea")
            leader.append((time.process_time() - began_cpu) / (count * size) * 1e6)
            began_cpu, before = time.process_time(), got
            while got - before < count * size:
                await read()
            follower.append((time.process_time() - began_cpu) / (count * size) * 1e6)
            wall.append(count * size / (time.perf_counter() - began))
            followed.note_stored({TOPIC: made[-1][-1].seq})
            await engine.trim(stream, followed.position)
        for batch in batches(300, 1 + options.bus_rounds * count * size, size):
            began = time.perf_counter()
            shipper.offer(batch)
            before = got
            while got == before:
                await read()
            waits.append((time.perf_counter() - began) * 1e3)
        await engine.forget(stream)
        nursery.cancel_scope.cancel()
    waits.sort()
    cost = [
        (f"leader {of}", f"{min(leader):.2f} ({harness.median(leader):.2f})", "2" if size == BATCH else "-"),
        (f"follower {of}", f"{min(follower):.2f} ({harness.median(follower):.2f})", "-"),
    ]
    if size != BATCH:
        return cost
    return [
        *cost,
        ("through both in turn, one process, records/s", f"{max(wall):,.0f}", "-"),
        (
            "one batch, offer to arrival, ms, p50 and p99",
            f"{waits[len(waits) // 2]:.2f}, {waits[-4]:.2f}",
            "-",
        ),
    ]


# -- from one process to another -------------------------------------------------------------------------------


async def lead(url: str, count: int, fence: int) -> None:
    """Put so many records on the bus, as fast as it takes them."""
    async with open_redis(url, name="leader") as engine, trio.open_nursery() as nursery:
        shipper, router = ship(engine, Metrics(), fence), Router(Metrics(), 0)
        await nursery.start(shipper.run)
        for batch in batches(count // BATCH, 1):
            router.publish(batch)
            shipper.offer(batch)
            if shipper.bytes > WAITING_BYTES:
                await shipper.shipped("sea")
        await shipper.shipped("sea")
        nursery.cancel_scope.cancel()


async def measure_through(world: World, options: argparse.Namespace) -> list[Row]:
    rates, by_cpu = [], []
    for round_ in range(options.rounds):
        fence = 10 + round_
        metrics = Metrics()
        router, seen = Router(metrics, 0), 0

        def route(batch: list[Published], router: Router = router) -> None:
            nonlocal seen
            seen += len(batch)
            router.publish(batch)

        followed, stream = follow(route, metrics), stream_key("sea")
        followed.position = Position(fence, 0)
        command = [sys.executable, __file__, "--lead", world.redis, str(options.through), str(fence)]
        ours, theirs = time.process_time(), children_cpu_s()
        async with open_redis(world.redis, name="follower") as engine:
            began = 0.0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.run_process, command)
                with trio.fail_after(THROUGH_S):
                    while seen < options.through:
                        found = await engine.read({stream: followed.position}, most=MOST, wait_s=1)
                        if found:  # the other process has started
                            began = began or time.perf_counter()
                            await followed.take(found[stream])
                rates.append(options.through / (time.perf_counter() - began))
            await engine.forget(stream)
        by_cpu.append(options.through / max(time.process_time() - ours, children_cpu_s() - theirs))
    return [
        ("from one process to another, records/s", harness.spread(rates, 0), "100,000"),
        ("the same, by CPU", harness.spread(by_cpu, 0), "100,000"),
    ]


def children_cpu_s() -> float:
    """Return the CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- with servers ----------------------------------------------------------------------------------------------


@contextmanager
def server(
    world: World, name: str, broker: dict[str, Any], role: str | None, *, store: bool = True
) -> Iterator[Server]:
    """Run a server; ``role`` None: a single one, without the bus."""
    folder, port = world.folder / name, harness.free_port()
    folder.mkdir(exist_ok=True)
    given = conninfo_to_dict(world.database)
    address = "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())
    config: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": port},
        "database": {"url": address} if store else {"url": "embedded", "store": False},
        "data_dir": str(folder / "data"),
        "brokers": [broker],
    }
    if role is not None:
        config["bus"] = {"url": world.redis, "role": role}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [harness.mdserver_command(), "run", "--config", str(folder / "config.yaml")]
    log = folder / "server.log"
    with harness.process(command, log=log) as child:
        try:
            harness.wait_until_up(child, f"http://127.0.0.1:{port}/health/live", log)
            yield Server(port, child.pid, pinned=False)
        except Exception:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
            raise


@contextmanager
def edges(world: World, broker: dict[str, Any], *names: str) -> Iterator[list[Server]]:
    """Run an ingest and edges."""
    with ExitStack() as stack:
        stack.enter_context(server(world, "ingest", broker, "ingest"))
        yield [stack.enter_context(server(world, name, broker, "edge")) for name in names]


def mock() -> dict[str, Any]:
    return harness.mock_broker(RATE, 1)


def ticks_to_clients(target: Server, options: argparse.Namespace) -> Result:
    return target.load(
        *("--clients", CLIENTS, "--symbols", SYMBOLS, "--universe", SYMBOLS),
        *("--warm", options.warm, "--seconds", options.seconds),
    )


def measure_fanout(world: World, options: argparse.Namespace) -> list[Row]:
    single, edge = [], []
    for _ in range(options.rounds):
        with server(world, "single", mock(), None, store=False) as one:
            single.append(ticks_to_clients(one, options)["cpu_s_per_million"])
        with edges(world, mock(), "edge") as (one,):
            edge.append(ticks_to_clients(one, options)["cpu_s_per_million"])
    ratios = [ours / other for ours, other in zip(edge, single, strict=True)]
    return [
        ("single server, µs of CPU a delivery", harness.spread(single), "-"),
        ("edge, µs of CPU a delivery", harness.spread(edge), "-"),
        ("edge / single server", harness.spread(ratios), "1.1"),
    ]


def trades_to_a_client(target: Server, options: argparse.Namespace) -> Result:
    return target.load(
        *("--trades", "--latency", "--names", TRADED, "--broker", "binance", "--clients", 1),
        *("--warm", options.warm, "--seconds", options.seconds),
    )


def measure_latency(world: World, options: argparse.Namespace) -> list[Row]:
    single, edge = [], []
    for _ in range(options.rounds):
        with harness.trade_venue(TRADES) as url:
            broker = {"name": "binance", "plugin": "binance", "url": url}
            with server(world, "single", broker, None) as one:
                single.append(trades_to_a_client(one, options)["latency_us"])
        with harness.trade_venue(TRADES) as url:
            broker = {"name": "binance", "plugin": "binance", "url": url}
            with edges(world, broker, "edge") as (one,):
                edge.append(trades_to_a_client(one, options)["latency_us"])
    more = [(ours["p50"] - other["p50"]) / 1000 for ours, other in zip(edge, single, strict=True)]
    rows = [
        (f"venue to client, {name}, ms, {key}", harness.spread([one[key] / 1000 for one in taken]), "-")
        for name, taken in (("single server", single), ("edge", edge))
        for key in ("p50", "p99")
    ]
    return [*rows, ("p50 of the edge above the single server's, ms", harness.spread(more), "0.6")]


def measure_edges(world: World, options: argparse.Namespace) -> list[Row]:
    alone, together, times = [], [], []
    for _ in range(options.rounds):
        with edges(world, mock(), "x", "y") as both, ThreadPoolExecutor(2) as threads:
            one = [ticks_to_clients(both[0], options)["cpu_s_per_million"]]
            costs = [
                result["cpu_s_per_million"]
                for result in threads.map(lambda one: ticks_to_clients(one, options), both)
            ]
            one.append(ticks_to_clients(both[1], options)["cpu_s_per_million"])
        alone += one
        together += costs
        times.append(sum(harness.median(one) / cost for cost in costs))
    return [
        ("one edge beside an idle one, µs of CPU a delivery", harness.spread(alone), "-"),
        ("each of two edges, µs of CPU a delivery", harness.spread(together), "-"),
        ("two edges with a core each, by CPU, times one", harness.spread(times), "1.8"),
    ]


PARTS: dict[str, Callable[[World, argparse.Namespace], list[Row]]] = {
    "bus": lambda world, options: [
        row for size in (BATCH, 1) for row in trio.run(measure_bus, world, options, size)
    ],
    "through": lambda world, options: trio.run(measure_through, world, options),
    "fanout": measure_fanout,
    "latency": measure_latency,
    "edges": measure_edges,
}


async def connect(url: str) -> None:
    """Wait until Redis answers."""
    async with open_redis(url, name="benchmark") as engine:
        with trio.fail_after(10):
            while True:
                try:
                    await engine.clock_s()
                except BusUnavailable:
                    await trio.sleep(0.05)
                else:
                    return


@contextmanager
def world() -> Iterator[World]:
    """Run a Redis and a PostgreSQL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    port = harness.free_port()
    with harness.data_folder() as folder, running_postgres("auto") as database:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        with harness.process(command, log=folder / "redis.log", stop_s=5):
            url = f"redis://127.0.0.1:{port}"
            trio.run(connect, url)
            yield World(url, database, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before counting")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of counting")
    parser.add_argument("--batches", type=int, default=1_000, help="batches in a round of the bus alone")
    parser.add_argument("--bus-rounds", type=int, default=10, help="rounds of the bus alone")
    parser.add_argument("--through", type=int, default=400_000, help="records from one process to another")
    parser.add_argument("--lead", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lead:
        url, count, fence = options.lead
        trio.run(lead, url, int(count), int(fence))
        return
    harness.build_load_client()
    print(f"{harness.machine()}; {options.rounds} rounds of {options.seconds:g} s: median (least-greatest)")
    rows: list[Row] = []
    with world() as shared:
        for name in options.only.split(","):
            began = time.monotonic()
            rows += PARTS[name](shared, options)
            print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(
        f"\n{harness.table(('what', 'measured', 'goal'), rows)}\nload average at the end: {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
