"""Several processes on one bus under faults at random: what each client had, and what is stored.

Two ingests, two edges, a Redis and a PostgreSQL, each process with a proxy of its own to either. The venue is that of
:mod:`.crash_run`: it numbers its trades and logs their times. So each record that is missing anywhere can be looked for
in the gaps by its time.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import psutil
import trio
from psycopg.conninfo import conninfo_to_dict

from .chaos_check import CandleWatcher, ChaosClient, Stored, check_clients, check_stored, read_stored
from .crash_run import SYMBOLS, NumberedVenue, _free_port, run_event_client, run_websocket_client
from .daemon import Daemon, open_daemon, write_config
from .redis import RedisServer
from .tcp_proxy import TcpProxy

__all__ = [
    "EDGES",
    "KINDS",
    "PROCESSES",
    "Chaos",
    "ChaosOutcome",
    "Fault",
    "Server",
    "open_server",
    "planned",
    "run_chaos",
]

LEASE_S = 4.0
KEEP_S = 20
INGESTS, EDGES = ("a", "b"), ("x", "y")
PROCESSES = (*INGESTS, *EDGES)
REDIS, DATABASE = "redis", "database"
CALM_S = 10.0
SETTLE_S = 30.0
STOPS = 4
START_S = 90.0
LAST_RESORT = "the server did not stop in time and is ended now"
ENDS = (None, 0, -signal.SIGKILL, -signal.SIGTERM)
"""How a process may end; the last is that of one that did not take signals yet."""
MOST_MB = 250.0


@attrs.frozen
class Fault:
    """What is done to which parts, when after the start, and for how long."""

    at_s: float
    kind: str
    parts: tuple[str, ...]
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  {self.kind} {' '.join(self.parts)} for {self.for_s:.1f} s"


SHORT, LONG = (0.2, 1.5), (4.5, 9.0)
"""Seconds, below and above the lease."""

Kind = tuple[str, Sequence[tuple[str, ...]], tuple[float, float]]
"""What is done, to which parts, and for how long."""

KINDS: tuple[Kind, ...] = (
    ("kill", [(name,) for name in INGESTS], (0.1, 4.0)),
    ("kill", [(name,) for name in EDGES], (0.1, 4.0)),
    ("kill", [INGESTS], (0.1, 3.0)),
    ("end", [(name,) for name in INGESTS], (0.1, 4.0)),
    ("end", [(name,) for name in EDGES], (0.1, 4.0)),
    ("freeze", [(name,) for name in INGESTS], SHORT),
    ("freeze", [(name,) for name in INGESTS], LONG),
    ("freeze", [(name,) for name in EDGES], LONG),
    ("kill redis", [()], (0.1, 4.0)),
    ("freeze redis", [()], SHORT),
    ("freeze redis", [()], LONG),
    ("empty redis", [()], (0.0, 0.0)),
    *(
        (f"{how} {where}", [(name,) for name in names], (0.5, 9.0))
        for how in ("refuse", "silence")
        for where in (REDIS, DATABASE)
        for names in (INGESTS, EDGES)
    ),
    ("refuse both", [(name,) for name in INGESTS], LONG),
    ("silence both", [(name,) for name in INGESTS], LONG),
    ("refuse database", [PROCESSES], (1.0, 5.0)),
    ("silence database", [PROCESSES], (1.0, 5.0)),
)


def planned(seed: int, faults: int, seconds: float, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """Return the faults of a seed. Those of one part do not overlap, those of several may."""
    rng = random.Random(seed)  # noqa: S311
    busy_until: dict[str, float] = {}
    plan = []
    for at_s in sorted(rng.uniform(0, seconds) for _ in range(faults)):
        while True:
            kind, targets, bounds = rng.choice(kinds)
            parts = rng.choice(targets)
            touched = _touched(kind, parts)
            if all(busy_until.get(part, 0) <= at_s for part in touched):
                break
            at_s += 0.25
        for_s = rng.uniform(*bounds)
        busy_until |= dict.fromkeys(touched, at_s + for_s + (3.0 if kind in ("kill", "end") else 0.5))
        plan.append(Fault(at_s, kind, parts, for_s))
    return plan


def _touched(kind: str, parts: Sequence[str]) -> list[str]:
    where = kind.split()[-1]
    if not parts:
        return [where]
    if where == "both":
        return [f"{part} {one}" for part in parts for one in (REDIS, DATABASE)]
    return [f"{part} {where}" if where in (REDIS, DATABASE) else part for part in parts]


@attrs.define(eq=False)
class Server:
    """One process, started again whenever it was ended, and its two ways."""

    name: str
    config: Path
    port: int
    ways: dict[str, TcpProxy]
    daemon: Daemon | None = None
    may_run: trio.Event = attrs.field(factory=trio.Event)
    is_ending: bool = False
    """Whether a fault has ended it, or is about to."""
    starts: int = 0
    last_resorts: int = 0
    """How often it did not end in order within its time, because nothing answered, and ended all the same."""
    most_mb: float = 0.0
    events: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)

    async def run(self) -> None:
        """Keep it running until cancelled."""
        while True:
            await self.may_run.wait()
            self.is_ending = False
            async with open_daemon(self.config, wait_ready=False) as daemon:
                self.daemon = daemon
                self.starts += 1
                try:
                    await daemon.process.wait()
                    await trio.sleep(0.1)  # the last lines of its log
                finally:
                    self._look_back(daemon)

    def _look_back(self, daemon: Daemon) -> None:
        code = daemon.process.returncode
        with (self.config.parent / "log.jsonl").open("a") as log:
            log.writelines(
                json.dumps(line) + "\n" for line in (*daemon.lines, {"event": f"ended with {code}"})
            )
        self.events.update(str(line.get("event")) for line in daemon.lines)
        self.wrong += [
            f"{self.name}: {line}" for line in daemon.lines if "exception" in line or "Traceback" in str(line)
        ]
        if code is not None and not self.is_ending:
            self.wrong.append(f"{self.name} ended by itself with {code}: {daemon.lines[-3:]}")
        elif code == 1 and any(LAST_RESORT in str(line.get("event")) for line in daemon.lines):
            self.last_resorts += 1
        elif code not in ENDS:
            self.wrong.append(f"{self.name} ended with {code}: {daemon.lines[-3:]}")

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.daemon is not None and self.daemon.process.returncode is None and bool(self.daemon.base)

    async def end(self, number: signal.Signals) -> None:
        """End it, and do not start it again before :meth:`start`."""
        self.may_run = trio.Event()
        self.is_ending = True
        if self.daemon is not None and self.daemon.process.returncode is None:
            self.daemon.process.send_signal(number)
            await self.daemon.process.wait()

    def start(self) -> None:
        """Let it run."""
        self.may_run.set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.daemon is not None and self.daemon.process.returncode is None:
            self.daemon.process.send_signal(number)

    def measure(self) -> None:
        """Note the memory."""
        if self.daemon is not None and self.daemon.process.returncode is None:
            try:
                self.most_mb = max(
                    self.most_mb, psutil.Process(self.daemon.process.pid).memory_info().rss / 1e6
                )
            except psutil.Error:
                return


class Chaos:
    """The parts of a run, and what a fault does to them."""

    def __init__(self, servers: Sequence[Server], redis: RedisServer, say: Callable[[str], None]) -> None:
        self.servers = {server.name: server for server in servers}
        self.redis = redis
        self._say = say

    async def run(self, plan: Sequence[Fault]) -> None:
        """Let the faults of a plan happen; return when all are over."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in plan:
                await trio.sleep_until(began + fault.at_s)
                self._say(str(fault))
                nursery.start_soon(self._happen, fault)

    async def _happen(self, fault: Fault) -> None:
        what, _, where = fault.kind.partition(" ")
        servers = [self.servers[name] for name in fault.parts]
        if where == REDIS and not servers:
            await self._redis(what, fault.for_s)
        elif what in ("refuse", "silence"):
            ways = [way for server in servers for name, way in server.ways.items() if where in (name, "both")]
            for way in ways:
                way.refuse() if what == "refuse" else way.silence()
            await trio.sleep(fault.for_s)
            for way in ways:
                await way.open()
        elif what == "freeze":
            for server in servers:
                server.send(signal.SIGSTOP)
            await trio.sleep(fault.for_s)
            for server in servers:
                server.send(signal.SIGCONT)
        else:
            async with trio.open_nursery() as nursery:
                for server in servers:
                    nursery.start_soon(server.end, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            await trio.sleep(fault.for_s)
            for server in servers:
                server.start()

    async def _redis(self, what: str, for_s: float) -> None:
        if what == "kill":
            self.redis.kill()
            await trio.sleep(for_s)
            await trio.to_thread.run_sync(self.redis.start)
        elif what == "freeze":
            self.redis.send(signal.SIGSTOP)
            await trio.sleep(for_s)
            self.redis.send(signal.SIGCONT)
        else:
            async with await trio.open_tcp_stream("127.0.0.1", self.redis.port) as stream:
                await stream.send_all(b"FLUSHALL\r\n")
                await stream.receive_some()

    async def measure(self) -> None:
        """Watch the memory until cancelled."""
        while True:
            for server in self.servers.values():
                server.measure()
            await trio.sleep(0.5)


@attrs.define
class ChaosOutcome:
    """What came of a run; ``wrong`` is empty, or a promise is broken."""

    clients: list[ChaosClient]
    servers: list[Server]
    times_us: dict[str, list[int]]
    """The venue's log."""
    stored: Stored
    candles: int
    """Closed candles that clients of edges got."""
    wrong: list[str]


async def run_chaos(
    folder: Path,
    database_url: str,
    redis: RedisServer,
    plan: Sequence[Fault],
    *,
    clients: int,
    seed: int,
    rate: float = 100,
    lease_s: float = LEASE_S,
    calm_s: float = CALM_S,
    say: Callable[[str], None] = lambda text: None,
) -> ChaosOutcome:
    """Let faults happen to all processes under clients that resume. The venue's plugin must be on PYTHONPATH.

    ``calm_s``: how long the venue goes on behind the last fault.
    """
    rng = random.Random(seed)  # noqa: S311
    venue = NumberedVenue(rate)
    everyone = [
        ChaosClient(
            f"{'events' if n % 4 == 3 else 'websocket'} {n}", tuple(rng.sample(SYMBOLS, rng.randrange(1, 5)))
        )
        for n in range(clients)
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(venue.run)
        servers = [
            await open_server(nursery, folder, name, database_url, redis.port, _numbered(venue.port), lease_s)
            for name in PROCESSES
        ]
        try:
            for server in servers:
                server.start()
                nursery.start_soon(server.run)
            chaos = Chaos(servers, redis, say)
            nursery.start_soon(chaos.measure)
            ports = [server.port for server in servers if server.name in EDGES]
            for number, client in enumerate(everyone):
                run = run_event_client if client.name.startswith("events") else run_websocket_client
                nursery.start_soon(run, client, ports, random.Random(seed * 1_000 + number))  # noqa: S311
            watchers = [
                CandleWatcher(f"candles of {server.name}") for server in servers if server.name in EDGES
            ]
            for watcher, port in zip(watchers, ports, strict=True):
                nursery.start_soon(watcher.run, port)
            await _until(lambda: all(client.last for client in everyone), "the first records")
            await chaos.run(plan)
            await _until(lambda: all(server.is_ready for server in servers), "all servers again")
            wrong = await _settle(everyone, venue, calm_s)
            for server in servers:  # edges last: they answer from what the ingests have stored
                await server.end(signal.SIGTERM)
            nursery.cancel_scope.cancel()
        finally:
            for server in servers:
                server.send(signal.SIGCONT)
            redis.send(signal.SIGCONT)
    for server in servers:
        wrong += server.wrong
        if server.most_mb > MOST_MB:
            wrong.append(f"{server.name} needed {server.most_mb:.0f} MB")
    stored = await trio.to_thread.run_sync(read_stored, database_url)
    wrong += check_clients(everyone, stored, venue.times_us)
    wrong += check_stored(stored, venue.times_us)
    wrong += [text for watcher in watchers for text in watcher.check(stored)]
    candles = sum(len(watcher.closed) for watcher in watchers)
    return ChaosOutcome(everyone, servers, venue.times_us, stored, candles, wrong)


async def _settle(clients: Sequence[ChaosClient], venue: NumberedVenue, calm_s: float) -> list[str]:
    """Stop the venue, and wait until each client has the last record of each symbol.

    On a machine that is too busy the leader may change just then: the venue goes on for a while, and ends once more.
    """

    def late() -> list[str]:
        return [
            f"{client.name} did not come to {symbol} {venue.numbers[symbol]}: {client.last.get(symbol)}"
            for client in clients
            for symbol in client.symbols
            if client.last.get(symbol, (0, 0))[1] != venue.numbers[symbol]
        ]

    for _ in range(STOPS):
        venue.stopped = False
        await trio.sleep(calm_s)
        venue.stopped = True
        with trio.move_on_after(SETTLE_S):
            while late():
                await trio.sleep(0.1)
            return []
    return late()


async def _until(holds: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(START_S):
        while not holds():
            await trio.sleep(0.05)
        return
    raise RuntimeError(f"{what}: not within {START_S:.0f} s")


def _numbered(venue_port: int) -> list[dict[str, Any]]:
    return [
        {
            "name": "numbered",
            "port": venue_port,
            "symbols": list(SYMBOLS),
            "backoff": {"first_s": 0.1, "most_s": 0.3},
        }
    ]


async def open_server(
    nursery: trio.Nursery,
    folder: Path,
    name: str,
    database_url: str,
    redis_port: int,
    brokers: Sequence[dict[str, Any]],
    lease_s: float = LEASE_S,
) -> Server:
    """Write the config of one of :data:`PROCESSES` and open its ways; it is not started yet."""
    given = {key: str(value) for key, value in conninfo_to_dict(database_url).items()}
    host, port = given.pop("host"), given.pop("port", "5432")
    ways = {
        REDIS: TcpProxy(partial(trio.open_tcp_stream, "127.0.0.1", redis_port)),
        DATABASE: TcpProxy(partial(trio.open_unix_socket, f"{host}/.s.PGSQL.{port}")),
    }
    for way in ways.values():
        await nursery.start(way.run)
    (folder / name).mkdir()
    own_port = await _free_port()
    config = write_config(
        folder / name,
        server={"port": own_port},
        database={
            "url": "postgresql:///?" + urlencode({**given, "host": "127.0.0.1", "port": ways[DATABASE].port})
        },
        bus={
            "url": f"redis://127.0.0.1:{ways[REDIS].port}/0",
            "role": "ingest" if name in INGESTS else "edge",
            "lease_s": lease_s,
            "keep_s": KEEP_S,
        },
        brokers=list(brokers),
    )
    return Server(name, config, own_port, ways)
