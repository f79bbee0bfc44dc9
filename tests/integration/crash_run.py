"""A server that is killed again and again under clients that resume: what each of them had, and what is stored.

The venue numbers its trades and goes on while nobody listens. So a record that is missing anywhere shows as a jump of
the venue's numbers, and one that comes twice, or under another ``seq``, as a number that was there before.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import h11
import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from mdserver.errors import Unavailable
from mdserver.net import open_websocket
from tests.component.event_source import open_events

from .daemon import Daemon, open_daemon, write_config
from .test_daemon import broken_distribution

SYMBOLS = ("AAA", "BBB", "CCC", "DDD")
SETTLE_S = 60.0
"""How long the clients may take, after the last kill, to come to the venue's last number."""

AWAY = "streaming starts without it"
"""In the log of a server that did not get an answer of its database in time."""

PLUGIN = """
import attrs, trio, mdserver.plugin as p
from mdserver.errors import Unavailable
from mdserver.model import Trade
@attrs.frozen
class Settings:
    port: int = 0
class Numbered:
    def __init__(self, settings):
        self.port = settings.port
    async def run(self, host, *, task_status=trio.TASK_STATUS_IGNORED):
        try:
            stream = await trio.open_tcp_stream('127.0.0.1', self.port)
        except OSError as error:
            raise Unavailable(str(error)) from error
        async with stream:
            host.confirm(host.demand.current())
            task_status.started()
            rest = b''
            while data := await stream.receive_some():
                *lines, rest = (rest + data).split(b'\\n')
                rows = (line.decode().split() for line in lines)
                host.publish([Trade(s, int(t), 1 + int(n) % 100 / 1000, 1.0, None, n) for s, n, t in rows])
        raise Unavailable('the venue closed')
plugin = p.BrokerPlugin('numbered', '', Settings, Numbered, types=('trade',), candles_from='trade', silence_s=None)
"""


class NumberedVenue:
    """Counts each symbol's trades, ``rate`` a second of all together, whether or not somebody is connected.

    ``times_us`` is its log: by symbol the time of each trade, that of number 1 first.
    """

    def __init__(self, rate: float) -> None:
        self.times_us: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
        self.port = 0
        self.stopped = False
        self._rate = rate
        self._streams: set[trio.SocketStream] = set()

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each symbol's last trade."""
        return {symbol: len(times) for symbol, times in self.times_us.items()}

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._serve, 0)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()
            await self._count()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._streams.add(stream)
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        finally:
            self._streams.discard(stream)

    async def _count(self) -> None:
        began, done = trio.current_time(), 0
        while True:
            await trio.sleep(0.005)
            due = int((trio.current_time() - began) * self._rate)
            lines = [] if self.stopped else [self._next(number) for number in range(done, due)]
            done = due
            for stream in tuple(self._streams):
                try:
                    with trio.move_on_after(1):
                        await stream.send_all(b"".join(lines))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._streams.discard(stream)

    def _next(self, number: int) -> bytes:
        symbol = SYMBOLS[number % len(SYMBOLS)]
        times = self.times_us[symbol]
        times.append(max(time.time_ns() // 1000, times[-1] + 1 if times else 0))
        return f"{symbol} {len(times)} {times[-1]}\n".encode()


@attrs.define
class Client:
    """What one client had. ``wrong``: what must not be."""

    name: str
    symbols: tuple[str, ...]
    last: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """By symbol the last ``seq`` and the venue's number of it."""
    seen: dict[tuple[str, int], int] = attrs.field(factory=dict)
    gaps: set[str] = attrs.field(factory=set)
    epoch: str = ""
    connections: int = 0
    announced: int = 0
    """Jumps of the venue's numbers that a gap had named."""
    jumps: list[str] = attrs.field(factory=list)
    """Where ``seq`` went on higher: right only where a start found the database away, and went on from a floor."""
    wrong: list[str] = attrs.field(factory=list)

    def take(self, message: dict[str, Any]) -> None:
        """Look at one message."""
        kind = message["type"]
        if "epoch" in message:
            if self.epoch not in ("", message["epoch"]):
                self.wrong.append(f"another epoch: {message['epoch']}")
            self.epoch = message["epoch"]
        elif kind == "gap":
            self.gaps.add(message["symbol"])
        elif kind == "ack":
            for one in message["results"]:
                if one["status"] == "error":
                    self.wrong.append(str(one))
                elif one.get("recovered") is False:
                    self.jumps.append(str(one))
        elif kind == "trade":
            self._take_trade(message["symbol"], message["seq"], int(message["trade_id"]))

    def _take_trade(self, symbol: str, seq: int, number: int) -> None:
        if symbol in self.last:
            last_seq, last_number = self.last[symbol]
            if seq != last_seq + 1:
                found = self.jumps if seq > last_seq else self.wrong
                found.append(f"{symbol}: seq {seq} after {last_seq}")
            if number <= last_number:
                self.wrong.append(f"{symbol}: record {number} after {last_number}")
            if number != last_number + 1:
                if symbol not in self.gaps:
                    self.wrong.append(f"{symbol}: no gap between records {last_number} and {number}")
                self.announced += 1
        self.gaps.discard(symbol)
        self.last[symbol] = seq, number
        self.seen[symbol, seq] = number


async def run_websocket_client(client: Client, ports: Sequence[int], rng: random.Random) -> None:
    """Be connected for ever, to any of the servers; leave now and then, and come back behind the last record."""
    while True:
        patience_s = rng.choice((0.3, 2.0, 1e9))
        try:
            with trio.move_on_after(patience_s):
                async with open_websocket(f"ws://127.0.0.1:{rng.choice(ports)}/") as ws:
                    client.connections += 1
                    request: dict[str, Any] = {
                        "action": "subscribe",
                        "symbols": client.symbols,
                        "types": ["trade"],
                    }
                    if client.last:
                        rows = [["numbered", one, "trade", seq] for one, (seq, _) in client.last.items()]
                        request["since"] = {"epoch": client.epoch, "seqs": rows}
                    await ws.send(json.dumps(request))
                    while True:
                        for text in await ws.receive():
                            client.take(json.loads(text))
        except Unavailable:
            await trio.sleep(rng.uniform(0.02, 0.1))


async def run_event_client(client: Client, ports: Sequence[int], rng: random.Random) -> None:
    """The same by server-sent events: what it comes back with is the id of its last event."""
    last: dict[str, str] = {}
    query = f"symbols={','.join(client.symbols)}&types=trade"
    while True:
        patience_s = rng.choice((0.3, 2.0, 1e9))
        try:
            with trio.move_on_after(patience_s):
                async with open_events(rng.choice(ports), query, **last) as events:
                    client.connections += 1
                    while (message := await events.get()) is not None:
                        client.take(message)
                        if events.last_id:
                            last = {"Last_Event_ID": events.last_id}
        except* (OSError, Unavailable, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError):
            await trio.sleep(rng.uniform(0.02, 0.1))


@attrs.define
class Outcome:
    """What came of a run; ``wrong`` is empty, or the promise is broken."""

    kills: int
    clients: list[Client]
    stored: int
    starts_away: int
    wrong: list[str]


async def run_crashes(
    folder: Path, database_url: str, *, kills: int, clients: int, seed: int, rate: float = 1_000
) -> Outcome:
    """Kill a server ``kills`` times at random moments; return what the clients had.

    The venue's plugin must be on PYTHONPATH: see :func:`lay_out_plugin`. The database lives through it all.
    """
    rng = random.Random(seed)  # noqa: S311
    venue = NumberedVenue(rate)
    everyone = [
        Client(
            f"{'events' if n % 4 == 3 else 'websocket'} {n}", tuple(rng.sample(SYMBOLS, rng.randrange(1, 5)))
        )
        for n in range(clients)
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(venue.run)
        port = await _free_port()
        config = write_config(
            folder,
            server={"port": port},
            database={"url": _as_url(database_url)},
            brokers=[
                {
                    "name": "numbered",
                    "port": venue.port,
                    "symbols": list(SYMBOLS),
                    "backoff": {"first_s": 0.1, "most_s": 0.3},
                }
            ],
        )
        for number, client in enumerate(everyone):
            run = run_event_client if client.name.startswith("events") else run_websocket_client
            nursery.start_soon(run, client, [port], random.Random(seed * 1_000 + number))  # noqa: S311
        lines: list[dict[str, Any]] = []
        for number in range(kills):
            in_start = number % 4 == 3  # some are killed early, perhaps before they serve anybody
            async with _daemon(config, lines, wait_ready=not in_start) as daemon:
                await trio.sleep(rng.uniform(0.1, 1.0 if in_start else 1.5))
                daemon.process.kill()
                await daemon.process.wait()
        async with _daemon(config, lines) as daemon:
            await daemon.wait_log("broker state")
            await trio.sleep(0.5)
            venue.stopped = True
            with trio.move_on_after(SETTLE_S) as settling:
                while not all(
                    client.last.get(symbol, (0, 0))[1] == venue.numbers[symbol]
                    for client in everyone
                    for symbol in client.symbols
                ):
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    starts_away = sum(AWAY in str(line) for line in lines)
    wrong = [str(line) for line in lines if "exception" in line or "Traceback" in str(line)]
    for client in everyone:
        found = client.wrong if starts_away else client.wrong + client.jumps
        wrong += [f"{client.name}: {what}" for what in found]
    if settling.cancelled_caught:
        wrong += [f"{c.name} did not come to {venue.numbers}: {c.last}" for c in everyone]
    stored = await trio.to_thread.run_sync(_read_stored, database_url)
    return Outcome(kills, everyone, len(stored), starts_away, [*wrong, *_missing(everyone, stored)])


@asynccontextmanager
async def _daemon(
    config: Path, lines: list[dict[str, Any]], *, wait_ready: bool = True
) -> AsyncIterator[Daemon]:
    async with open_daemon(config, wait_ready=wait_ready) as daemon:
        try:
            yield daemon
        finally:
            lines += daemon.lines


def _as_url(conninfo: str) -> str:
    """Return what psycopg was given as the config wants it."""
    given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    return f"postgresql:///?{urlencode(given)}"


async def _free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
        return port


def _read_stored(database_url: str) -> dict[tuple[str, int], int]:
    with psycopg.connect(database_url) as conn:
        rows = conn.execute(
            "select s.symbol, t.seq, t.trade_id::bigint from trades t join series s on s.id = t.series_id"
        ).fetchall()
    return {(symbol, seq): number for symbol, seq, number in rows}


def _missing(clients: list[Client], stored: dict[tuple[str, int], int]) -> list[str]:
    """Return what is stored otherwise than a client had it, or is out of order."""
    wrong = []
    for client in clients:
        for key, number in client.seen.items():
            if stored.get(key) != number:
                wrong.append(f"{client.name}: {key} was record {number}, stored is {stored.get(key)}")
    for symbol in SYMBOLS:
        numbers = [number for (name, _), number in sorted(stored.items()) if name == symbol]
        if numbers != sorted(set(numbers)):
            wrong.append(f"{symbol}: records are stored twice or out of order")
    return wrong


def lay_out_plugin(folder: Path) -> Path:
    """Make the venue's plugin; return the folder to put on PYTHONPATH."""
    return broken_distribution(folder, "numbered", PLUGIN)
