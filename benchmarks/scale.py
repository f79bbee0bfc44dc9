"""What the bus costs: CPU time per record of a leader and of a process that follows, over a real Redis on loopback.

Batches of 20 ticks go through the shipper onto a stream, and from there through the follower, whose clients are a
function that counts. The CPU time is this process's, so Redis is not in it; the fastest round counts, since the others
show what else the machine did. The last line is the time from the offer of one batch to its arrival, one at a time.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence

import trio

from mdserver.bus.engine import BusUnavailable, Position
from mdserver.bus.followed import Followed
from mdserver.bus.names import stream_key
from mdserver.bus.redis_engine import RedisEngine, open_redis
from mdserver.bus.shipper import Shipper
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic

BATCH = 20
MOST = 200
TOPIC = Topic("sea", "EURUSD", "tick")


async def nothing_missing(
    topic: Topic, after: int, before: int, from_us: int, to_us: int
) -> Sequence[Published]:
    """Stand for the database, which is not asked: nothing is missing."""
    await trio.lowlevel.checkpoint()
    return ()


def batches(count: int, first: int) -> list[list[Published]]:
    """Return so many batches of made-up ticks."""
    return [
        [
            Published(TOPIC, seq, Tick("EURUSD", 1_700_000_000_000_000 + seq, 1.08703, 1.08705, 1e6, 5e5))
            for seq in range(begin, begin + BATCH)
        ]
        for begin in range(first, first + count * BATCH, BATCH)
    ]


async def measure(engine: RedisEngine, count: int, rounds: int) -> None:
    """Print the figures."""
    metrics = Metrics()
    got = 0

    def route(batch: list[Published]) -> None:
        nonlocal got
        got += len(batch)

    followed = Followed(
        "sea", route=route, on_stored=lambda _: None, missing=nothing_missing, metrics=metrics
    )
    followed.primed = True
    shipper = Shipper(engine, metrics, max_bytes=1 << 30, keep_s=60, keep_bytes=1 << 30)
    shipper.lead("sea", 1, lambda: None)
    stream = stream_key("sea")

    async def read() -> None:
        found = await engine.read({stream: followed.position}, most=MOST, wait_s=1)
        await followed.take(found.get(stream, ()))

    leader, follower, wall, waits = [], [], [], []
    async with trio.open_nursery() as nursery:
        await nursery.start(shipper.run)
        for number in range(rounds):
            made = batches(count, 1 + number * count * BATCH)
            began, began_cpu = time.perf_counter(), time.process_time()
            for batch in made:
                shipper.offer(batch)
            await shipper.shipped("sea")
            leader.append((time.process_time() - began_cpu) / (count * BATCH) * 1e6)
            began_cpu, before = time.process_time(), got
            while got - before < count * BATCH:
                await read()
            follower.append((time.process_time() - began_cpu) / (count * BATCH) * 1e6)
            wall.append(count * BATCH / (time.perf_counter() - began))
            followed.note_stored({TOPIC: made[-1][-1].seq})
            await engine.trim(stream, followed.position)
        for batch in batches(300, 1 + rounds * count * BATCH):
            began = time.perf_counter()
            shipper.offer(batch)
            before = got
            while got == before:
                await read()
            waits.append((time.perf_counter() - began) * 1e3)
        nursery.cancel_scope.cancel()
    waits.sort()
    print(f"leader, µs of CPU a record:   {min(leader):.2f} (median {statistics.median(leader):.2f})")
    print(f"follower, µs of CPU a record: {min(follower):.2f} (median {statistics.median(follower):.2f})")
    print(f"through both in turn, records/s on one core: {max(wall):,.0f}")
    print(f"one batch, offer to arrival, ms: p50 {waits[len(waits) // 2]:.2f}, p99 {waits[-4]:.2f}")


async def connect(engine: RedisEngine) -> None:
    """Wait until Redis answers."""
    with trio.fail_after(10):
        while True:
            try:
                await engine.append("start", Position(1, 0), [b""])
            except BusUnavailable:
                await trio.sleep(0.05)
            else:
                return


async def run(url: str, count: int, rounds: int) -> None:
    """Measure over the Redis at ``url``."""
    async with open_redis(url, name="benchmark") as engine:
        await connect(engine)
        await measure(engine, count, rounds)


def main() -> None:
    """Start a Redis of our own, measure, and end it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            trio.run(run, f"redis://127.0.0.1:{port}", arguments.batches, arguments.rounds)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
