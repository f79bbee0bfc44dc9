"""A soak: three fake venues with faults at random from a fixed seed, a server that stores, and clients that read on.

    python benchmarks/soak.py [--minutes 10] [--seed 1] [--clients 50]

What must hold at the end, or the exit code is 1: every record of a venue is stored once, or lies in a gap of the
ledger that has a cause of the faults in it; once `run backfill` has run, every trade is stored once; no client was
disconnected, and each could explain every number that it missed; memory stays flat; no connection is left over.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx2
import msgspec
import psutil
import trio
import yaml

from mdserver.net import open_websocket
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.kraken import FakeKraken, KrakenRules, open_fake_kraken
from mdserver.testing.oanda import FakeOanda, HttpFault, OandaRules, open_fake_oanda

PER_S = 4.0
"""Records a second of each symbol."""
FAULT_EVERY_S = (4.0, 12.0)
CALM_S = 8.0
"""Without faults at the end: what was cut comes back."""
AWAY_S = 1.5
SLACK_S = 1.0
MOST_GROWTH = 0.10
SYMBOLS = {
    "binance": {"BTCUSDT": "BTCUSDT", "ETHUSDT": "ETHUSDT"},
    "kraken": {"BTCUSD": "BTC/USD", "ETHUSD": "ETH/USD"},
    "oanda": {"EURUSD": "EUR_USD", "USDJPY": "USD_JPY"},
}
TYPES = {"binance": "trade", "kraken": "trade", "oanda": "tick"}
CUT = frozenset({"disconnected"})
MUTE = frozenset({"silence", "disconnected"})

Key = tuple[str, str]
Topic = tuple[str, str]
"""Broker and symbol."""


@attrs.frozen
class Fault:
    """What was done to a venue, when, and the causes that the hole may have; none: there need not be one."""

    broker: str
    at_s: float
    name: str
    causes: frozenset[str]


@attrs.define
class Venue:
    """One venue as the soak drives it: ``happen`` makes a record of a symbol and returns its name and its time."""

    name: str
    happen: Callable[[str, int], Awaitable[list[tuple[str, float]]]]
    connected: Callable[[], bool]
    faults: Sequence[tuple[str, frozenset[str], Callable[[], Awaitable[None]]]]
    sent: dict[str, dict[str, float]] = attrs.Factory(dict)
    done: list[Fault] = attrs.Factory(list)

    async def run(self, chance: random.Random, until: float) -> None:
        """Let records happen, and faults, until a time."""
        async with trio.open_nursery() as nursery:
            for symbol in SYMBOLS[self.name]:
                nursery.start_soon(self._trade, symbol, random.Random(chance.random()), until)
            nursery.start_soon(self.run_faults, random.Random(chance.random()), until - CALM_S)

    async def _trade(self, symbol: str, chance: random.Random, until: float) -> None:
        sent = self.sent.setdefault(symbol, {})
        while trio.current_time() < until:
            await trio.sleep(chance.expovariate(PER_S))
            skipped = chance.choice((1, 3)) if self.name != "oanda" and chance.random() < 0.004 else 0
            records = await self.happen(SYMBOLS[self.name][symbol], skipped)
            sent.update(records)
            if skipped:
                self.done.append(Fault(self.name, records[0][1], "jump", frozenset({"missed"})))

    async def run_faults(self, chance: random.Random, until: float) -> None:
        """Let faults happen until a time."""
        while trio.current_time() < until:
            await trio.sleep(chance.uniform(*FAULT_EVERY_S))
            name, causes, apply = chance.choice(self.faults)
            if self.connected() and trio.current_time() < until:
                self.done.append(Fault(self.name, time.time(), name, causes))
                await apply()


def _then(*steps: Callable[[], object], wait_s: float = 0.0) -> Callable[[], Awaitable[None]]:
    async def apply() -> None:
        for step in steps:
            step()
            await trio.sleep(wait_s)

    return apply


def of_binance(venue: FakeBinance) -> Venue:
    async def happen(symbol: str, skipped: int) -> list[tuple[str, float]]:
        trades = await venue.trade(symbol, skip_ids=skipped)
        return [(str(trade.number), trade.time_ms / 1000) for trade in trades]

    def refuse() -> None:
        venue.rules.refuse = (503, {}, "out of order")
        venue.reset()

    def admit() -> None:
        venue.rules.refuse = None

    return Venue("binance", happen, lambda: bool(venue.streams), [
        ("close", CUT, _then(venue.disconnect)),
        ("hang up", CUT, _then(venue.hang_up)),
        ("reset", CUT, _then(venue.reset)),
        ("reset in a frame", CUT, _then(venue.reset_in_frame)),
        ("go dark", MUTE, _then(venue.go_dark)),
        ("garbage", frozenset(), _then(venue.garbage)),
        ("refuse", CUT, _then(refuse, admit, wait_s=AWAY_S)),
    ])  # fmt: skip


def of_kraken(venue: FakeKraken) -> Venue:
    async def happen(symbol: str, skipped: int) -> list[tuple[str, float]]:
        trades = venue.trade(symbol, skip_ids=skipped)
        return [(str(trade.trade_id), trade.time_ns / 1e9) for trade in trades]

    return Venue("kraken", happen, lambda: any("trade" in topic for topic in venue.topics), [
        ("close", CUT, _then(venue.disconnect)),
        ("hang up", CUT, _then(venue.hang_up)),
        ("reset", CUT, _then(venue.reset)),
        ("reset in a frame", CUT, _then(venue.reset_in_frame)),
        ("go dark", MUTE, _then(venue.go_dark)),
        ("garbage", frozenset(), _then(venue.garbage)),
        ("refuse", CUT, _then(lambda: (venue.refuse(), venue.reset()), venue.admit, wait_s=AWAY_S)),
    ])  # fmt: skip


def of_oanda(venue: FakeOanda) -> Venue:
    async def happen(name: str, _: int) -> list[tuple[str, float]]:
        await venue.push(name)
        time_us = (venue.instruments[name].quote.time_ns or 0) // 1000
        return [(str(time_us), time_us / 1e6)]

    async def reset() -> None:
        for stream in list(venue.streams):
            await stream.reset(b'{"type":"PRI')

    async def mute() -> None:
        for stream in list(venue.streams):
            stream.mute()

    async def garbage() -> None:
        for stream in list(venue.streams):
            await stream.send(b"no line of ours\n")

    async def refuse() -> None:
        venue.fail(HttpFault("status", 503, {"errorMessage": "out of order"}))
        await reset()
        await trio.sleep(AWAY_S)
        venue.heal()

    return Venue("oanda", happen, lambda: bool(venue.streams), [
        ("reset in a line", CUT, reset),
        ("go dark", MUTE, mute),
        ("garbage", frozenset(), garbage),
        ("refuse", CUT, refuse),
    ])  # fmt: skip


def config_of(folder: Path, binance: FakeBinance, kraken: FakeKraken, oanda: FakeOanda) -> Path:
    backoff = {"first_s": 0.2, "most_s": 1.0}
    settings: dict[str, dict[str, Any]] = {
        "binance": {"url": binance.url, "rest_url": binance.rest_url, "silence_s": 2.0},
        "kraken": {"url": kraken.url, "rest_url": kraken.rest_url, "silence_s": 2.0},
        "oanda": {
            "url": oanda.url,
            "rest_url": oanda.rest_url,
            "account_id": oanda.account_id,
            "api_key": oanda.api_key,
            "silence_s": 2.0,
        },
    }
    brokers = [
        {"name": name, "symbols": list(SYMBOLS[name]), "types": [TYPES[name]], "backoff": backoff, **own}
        for name, own in settings.items()
    ]
    path = folder / "config.yaml"
    log = {"format": "json"}
    config = {"data_dir": str(folder / "data"), "server": {"port": 0}, "log": log, "brokers": brokers}
    path.write_text(yaml.safe_dump(config))
    return path


@attrs.define
class Client:
    """One client's account: what it counted, and what nobody explained to it."""

    records: int = 0
    unexplained: list[str] = attrs.Factory(list)
    ended: str = ""
    _last: dict[tuple[str, str], int] = attrs.Factory(dict)

    async def run(self, url: str, *, task_status: trio.TaskStatus[None]) -> None:
        """Read until cancelled."""
        try:
            async with open_websocket(url) as ws:
                for broker, symbols in SYMBOLS.items():
                    request = {"action": "subscribe", "broker": broker, "symbols": list(symbols)}
                    await ws.send(json.dumps({**request, "types": [TYPES[broker]]}))
                task_status.started()
                while True:
                    for text in await ws.receive():
                        self._take(msgspec.json.decode(text))
        except Exception as error:  # noqa: BLE001 - any end of a client is what the soak looks for
            self.ended = repr(error)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("tick", "trade"):
            return
        topic, seq = (message["broker"], message["symbol"]), message["seq"]
        last = self._last.get(topic)
        if last is not None and seq != last + 1 + message.get("conflated", 0):
            self.unexplained.append(f"{topic}: {seq} after {last}")
        self._last[topic] = seq
        self.records += 1


@attrs.define
class Server:
    """The server under test."""

    process: trio.Process
    base: str
    memory: list[float] = attrs.Factory(list)

    async def get(self, path: str, **query: Any) -> Any:
        async with httpx2.AsyncClient(base_url=self.base, timeout=30) as http:
            answer = await http.get(path, params=query)
            answer.raise_for_status()
            return answer.json()

    def sockets(self) -> Counter[int]:
        """Return its connections by the port of the other side."""
        connections = psutil.Process(self.process.pid).net_connections("tcp")
        return Counter(one.raddr.port for one in connections if one.raddr and one.status == "ESTABLISHED")

    async def watch(self) -> None:
        while True:
            self.memory.append(psutil.Process(self.process.pid).memory_info().rss / 1e6)
            await trio.sleep(1)

    async def rows(self, kind: str, broker: str, symbol: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"symbol": symbol, "broker": broker, "from": 0, "to": 4_000_000_000}
        while True:
            page = await self.get(f"/api/{kind}s", limit=10_000, **query)
            found += page[f"{kind}s"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]


async def start_server(nursery: trio.Nursery, config: Path) -> Server:
    command = [sys.executable, "-m", "mdserver", "run", "--config", str(config)]
    log = (config.parent / "log").open("wb")
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=log)
    base = trio.Event()
    server = Server(process, "")

    async def read() -> None:
        text = b""
        async for chunk in process.stdout:
            text += chunk
            for line in text.decode().splitlines():
                if line.endswith("/api/metadata"):
                    server.base = line.split()[-1].removesuffix("/api/metadata")
                    base.set()

    nursery.start_soon(read)
    with trio.fail_after(90):
        await base.wait()
    return server


def name_of(broker: str, row: dict[str, Any]) -> str:
    """Return what tells a stored record from every other, as the venue's side names it."""
    return str(row["trade_id"]) if TYPES[broker] == "trade" else str(round(row["time"] * 1e6))


async def check_records(
    server: Server, venues: Sequence[Venue], gaps: dict[Topic, list[dict[str, Any]]], *, filled: bool
) -> list[str]:
    """Return what is wrong with the records: each that a venue made is stored once, or lies in a gap."""
    faults = []
    for venue in venues:
        for symbol, sent in venue.sent.items():
            stored = Counter(
                name_of(venue.name, row) for row in await server.rows(TYPES[venue.name], venue.name, symbol)
            )
            topic = venue.name, symbol
            twice = [name for name, count in stored.items() if count > 1]
            missing = {name: at for name, at in sent.items() if name not in stored}
            if not filled or venue.name == "oanda":
                away = gaps.get(topic, [])
                missing = {
                    name: at
                    for name, at in missing.items()
                    if not any(gap["from"] <= at <= (gap["to"] or math.inf) for gap in away)
                }
            if twice or missing:
                faults.append(f"{topic}: stored twice {twice[:3]}, missing {list(missing.items())[:3]}")
            holes = len(gaps.get(topic, []))
            print(f"  {venue.name:8} {symbol:8} sent {len(sent):6} stored {len(stored):6} gaps {holes:4}")
    return faults


def check_gaps(venues: Sequence[Venue], gaps: dict[Topic, list[dict[str, Any]]], began: float) -> list[str]:
    """Return what is wrong with the ledger: each hole-making fault is in a gap, each gap has a cause of its faults."""
    wrong = []
    for venue in venues:
        for symbol, sent in venue.sent.items():
            found = gaps.get((venue.name, symbol), [])
            first = min(sent.values(), default=math.inf)
            for fault in venue.done:
                near = [
                    gap
                    for gap in found
                    if gap["from"] - SLACK_S <= fault.at_s <= (gap["to"] or math.inf) + SLACK_S
                ]
                if fault.causes and fault.name != "jump" and fault.at_s > first + SLACK_S and not near:
                    wrong.append(
                        f"{venue.name} {symbol}: no gap for {fault.name} at {fault.at_s - began:.1f} s"
                    )
            for gap in found:
                causes = {
                    cause
                    for fault in venue.done
                    if gap["from"] - SLACK_S <= fault.at_s <= (gap["to"] or math.inf) + SLACK_S
                    for cause in fault.causes
                }
                if gap["cause"] not in causes:
                    at = gap["from"] - began
                    wrong.append(f"{venue.name} {symbol}: {gap['cause']} at {at:.1f} s, expected {causes}")
    return wrong


def check_memory(memory: list[float]) -> list[str]:
    quarter = len(memory) // 4
    if quarter < 5:
        return []
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    print(f"  memory {early:.0f} MB in the second quarter, {late:.0f} MB in the last")
    return [f"memory grew from {early:.0f} to {late:.0f} MB"] if late > early * (1 + MOST_GROWTH) else []


async def gaps_of(server: Server) -> dict[Topic, list[dict[str, Any]]]:
    found: dict[Topic, list[dict[str, Any]]] = {}
    for gap in (await server.get("/api/gaps", limit=10_000))["gaps"]:
        found.setdefault((gap["broker"], gap["symbol"]), []).append(gap)
    return found


async def soak(seconds: float, seed: int, clients: int, folder: Path) -> list[str]:
    """Run the soak; return what does not hold."""
    chance = random.Random(seed)
    async with (
        open_fake_binance(BinanceRules(pace_s=math.inf, max_connects=100_000)) as binance,
        open_fake_kraken(
            KrakenRules(pace_s=math.inf, heartbeat_s=0.5, max_connects=100_000, rest_per_s=5.0)
        ) as kraken,
        open_fake_oanda(OandaRules(heartbeat_s=0.5, price_every_s=None)) as oanda,
        trio.open_nursery() as nursery,
    ):
        venues = [of_binance(binance), of_kraken(kraken), of_oanda(oanda)]
        config = config_of(folder, binance, kraken, oanda)
        server = await start_server(nursery, config)
        try:
            return await _soak(server, venues, config, seconds, clients, chance)
        finally:
            server.process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(20):
                await server.process.wait()
            nursery.cancel_scope.cancel()


async def _soak(
    server: Server,
    venues: Sequence[Venue],
    config: Path,
    seconds: float,
    clients: int,
    chance: random.Random,
) -> list[str]:
    with trio.fail_after(60):
        while not all(venue.connected() for venue in venues):  # noqa: ASYNC110 - three venues, no event of all
            await trio.sleep(0.1)
    files = psutil.Process(server.process.pid).num_fds()
    began, readers = time.time(), [Client() for _ in range(clients)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            await nursery.start(reader.run, server.base.replace("http", "ws") + "/")
        nursery.start_soon(server.watch)
        until = trio.current_time() + seconds
        async with trio.open_nursery() as driving:
            for venue in venues:
                driving.start_soon(venue.run, random.Random(chance.random()), until)
        await trio.sleep(1)  # what is on its way is stored and delivered
        ended = [reader.ended for reader in readers if reader.ended]
        nursery.cancel_scope.cancel()
    wrong = [f"a client was disconnected: {why}" for why in ended]
    wrong += [text for reader in readers for text in reader.unexplained]
    wrong += check_memory(server.memory)
    await trio.sleep(2)
    left = psutil.Process(server.process.pid).num_fds()
    print(
        f"  descriptors {files} at the start, {left} at the end; venues' connections {sum(server.sockets().values())}"
    )
    if left > files + 10:
        wrong.append(f"descriptors grew from {files} to {left}")
    faults = Counter(f"{fault.name}" for venue in venues for fault in venue.done)
    print(f"  faults {dict(faults)}; records to clients {sum(reader.records for reader in readers):,}")
    gaps = await gaps_of(server)
    wrong += await check_records(server, venues, gaps, filled=False)
    wrong += check_gaps(venues, gaps, began)
    filling = [sys.executable, "-m", "mdserver", "run", "backfill", "--config", str(config), "--json"]
    done = await trio.run_process(filling, capture_stdout=True, check=False)
    result = json.loads(done.stdout)
    print(
        f"  backfill: {result['filled']} gaps filled, {result['records']} records added, {result['open']} open"
    )
    wrong += await check_records(server, venues, await gaps_of(server), filled=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        wrong = trio.run(soak, 60 * options.minutes, options.seed, options.clients, folder)
        for text in wrong[:30]:
            print(f"WRONG: {text}")
        if wrong:
            print((folder / "log").read_text()[-3000:])
    print("all holds" if not wrong else f"{len(wrong)} things are wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
