"""A database that goes away under a venue that numbers its records: what clients had, what is stored, and the pauses.

The server reaches its database through a proxy. It is away for half of the time in one of :data:`WAYS`.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import attrs
import httpx2
import psycopg
import structlog
import trio

from mdserver.errors import Unavailable
from mdserver.net import open_websocket
from mdserver.store.embedded.data_folder import PORT, Place
from mdserver.store.embedded.postmaster import Postmaster, start_postmaster, stop_postmaster
from mdserver.store.embedded.programs import choose_binaries
from tests.clusters import put_cluster

from .clusters import frozen
from .crash_run import SYMBOLS, NumberedVenue
from .daemon import Daemon, open_daemon, write_config

__all__ = ["WAYS", "Run", "run_outage"]

SETTLE_S = 120.0
"""How long it may take, after the venue's last record, until all is read and stored."""
POLL_S = 0.25
SERVER = {"client_buffer_bytes": 64 << 20}
"""More than the default: this program is itself late now and then, and its clients must not be cut off for that."""
JOURNAL_BYTES_A_RECORD = 60
"""About, for the size of the file system that is to be full."""

_log = structlog.get_logger("outage")


class Database:
    """A PostgreSQL that can be stopped, and the proxy that leads to it: the only way that the server knows."""

    def __init__(self, place: Place) -> None:
        self.port = 0
        self.place = place
        self._postmaster: Postmaster | None = None
        self._gate: trio.CancelScope | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Database]:
        """Start one with a prepared cluster in this folder."""
        self = cls(await trio.to_thread.run_sync(put_cluster, folder))
        await self.start()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.accept()
            try:
                yield self
            finally:
                with trio.CancelScope(shield=True):
                    if self._postmaster is not None:
                        await stop_postmaster(self._postmaster, _log)
                nursery.cancel_scope.cancel()

    async def start(self) -> None:
        """Start the server."""
        place = self.place
        choose = partial(
            choose_binaries, "auto", account=place.account, copies=place.copies, cluster_major=place.major()
        )
        self._postmaster = await start_postmaster(place, await trio.to_thread.run_sync(choose), _log)

    async def stop(self) -> None:
        """Stop the server in immediate mode: as a crash, but for the lost power."""
        assert self._postmaster is not None
        self._postmaster.signal(signal.SIGQUIT)
        await self._postmaster.wait()
        self._postmaster = None

    async def accept(self) -> None:
        """Accept connections at the proxy."""
        self._gate = await self._nursery.start(self._serve)

    def refuse(self) -> None:
        """Close the proxy's port and cut its connections."""
        assert self._gate is not None
        self._gate.cancel()

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Ask the server directly. Blocking."""
        assert self._postmaster is not None
        with psycopg.connect(self._postmaster.conninfo("mdserver")) as conn:
            return conn.execute(text).fetchall()

    async def _serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(
                    partial(trio.serve_tcp, self._connect, self.port, host="127.0.0.1")
                )
                self.port = listeners[0].socket.getsockname()[1]
                task_status.started(scope)

    async def _connect(self, client: trio.SocketStream) -> None:
        try:
            assert self._postmaster is not None
            socket = self._postmaster.socket_folder / f".s.PGSQL.{PORT}"
            async with client, await trio.open_unix_socket(socket) as server, trio.open_nursery() as nursery:
                for source, sink in ((client, server), (server, client)):
                    nursery.start_soon(self._pump, source, sink, nursery.cancel_scope)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            pass  # the server is stopped, or one side has gone: so is the connection

    @staticmethod
    async def _pump(source: trio.abc.Stream, sink: trio.abc.Stream, both: trio.CancelScope) -> None:
        async for data in source:
            await sink.send_all(data)
        both.cancel()


@attrs.define
class Reader:
    """A client that reads everything; ``wrong`` is what must not be."""

    name: str
    phase: Callable[[], str]
    last: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """By symbol the last ``seq`` and the venue's number of it."""
    offsets: dict[str, int] = attrs.field(factory=dict)
    """By symbol ``seq`` less the venue's number, which never changes."""
    pauses_ms: dict[str, float] = attrs.field(factory=dict)
    """By phase the longest time between two deliveries."""
    latency_ms: dict[str, float] = attrs.field(factory=dict)
    """By phase the oldest that a record was when it was read."""
    wrong: list[str] = attrs.field(factory=list)

    async def run(self, url: str, *, task_status: trio.TaskStatus[None]) -> None:
        """Subscribe to all trades and read them for ever."""
        async with open_websocket(url + "?batch=true") as ws:
            await ws.send(json.dumps({"action": "subscribe", "symbols": SYMBOLS, "types": ["trade"]}))
            began: float | None = None
            while True:
                try:
                    texts = await ws.receive()
                except Unavailable as error:
                    self.wrong.append(f"{self.name}, {self.phase()}: {error}")
                    return
                now, phase = time(), self.phase()
                messages = [one for text in texts for one in _as_list(json.loads(text))]
                trades = [one for one in messages if one["type"] == "trade"]
                for one in messages:
                    if one["type"] == "ack":
                        task_status.started()
                    elif one["type"] == "error":
                        self.wrong.append(f"{self.name}: {one}")
                if not trades:
                    continue
                if began is not None:
                    self._note(self.pauses_ms, phase, now - began)
                self._note(self.latency_ms, phase, now - min(one["time"] for one in trades))
                began = now
                for one in trades:
                    self._take(one["symbol"], one["seq"], int(one["trade_id"]))

    @staticmethod
    def _note(found: dict[str, float], phase: str, seconds: float) -> None:
        found[phase] = max(found.get(phase, 0.0), seconds * 1000)

    def _take(self, symbol: str, seq: int, number: int) -> None:
        last_seq, last_number = self.last.get(symbol, (seq - number, 0))
        if (seq, number) != (last_seq + 1, last_number + 1):
            self.wrong.append(f"{self.name}: {symbol} {seq} ({number}) after {last_seq} ({last_number})")
        self.last[symbol] = seq, number
        self.offsets.setdefault(symbol, seq - number)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def _as_list(message: Any) -> list[dict[str, Any]]:
    return message if isinstance(message, list) else [message]


@attrs.define
class Run:
    """One server, its database and its clients."""

    database: Database
    daemon: Daemon
    venue: NumberedVenue
    phase: str = "before"
    readers: list[Reader] = attrs.field(factory=list)
    memory_mib: list[tuple[str, float]] = attrs.field(factory=list)
    ready: list[str] = attrs.field(factory=list)
    """Each answer of /health/ready that differs from the one before."""
    own_stall_ms: dict[str, float] = attrs.field(factory=dict)
    """By phase the longest that this program itself was late."""
    stored_after_s: float = 0.0
    sent: int = 0
    stored: int = 0
    refused: int = 0
    """Records that the journal did not take."""
    named: int = 0
    """Records that lie in a gap."""
    wrong: list[str] = attrs.field(factory=list)

    def longest(self, name: str) -> dict[str, float]:
        """Return a figure of the readers by phase, the worst of all."""
        found: dict[str, float] = {}
        for reader in self.readers:
            for phase, value in getattr(reader, name).items():
                found[phase] = max(found.get(phase, 0.0), value)
        return found

    async def watch(self) -> None:
        """Note memory and readiness for ever."""
        async with httpx2.AsyncClient(base_url=self.daemon.base, timeout=10) as client:
            while True:
                self.memory_mib.append((self.phase, resident_mib(self.daemon.process.pid)))
                answer = await client.get("/health/ready")
                said = f"{answer.status_code} {answer.json().get('detail') or answer.json()['status']}"
                if not self.ready or self.ready[-1] != said:
                    self.ready.append(said)
                await trio.sleep(POLL_S)

    async def watch_itself(self) -> None:
        """Note how late this program is: what it did not read in time, nobody held back."""
        while True:
            due = trio.current_time() + 0.01
            await trio.sleep(0.01)
            late_ms = (trio.current_time() - due) * 1000
            self.own_stall_ms[self.phase] = max(self.own_stall_ms.get(self.phase, 0.0), late_ms)

    async def settle(self) -> None:
        """Stop the venue; wait until all clients have its last number and the journal is stored."""
        began = trio.current_time()
        with trio.move_on_after(SETTLE_S) as waiting:
            while not (self._all_read() and await self._all_stored()):  # noqa: ASYNC110
                await trio.sleep(0.1)
        self.stored_after_s = trio.current_time() - began
        if waiting.cancelled_caught:
            self.wrong.append(f"not settled in {SETTLE_S:.0f} s: {[one.last for one in self.readers]}")

    def _all_read(self) -> bool:
        sent = self.venue.numbers.items()
        return all(
            one.last.get(symbol, (0, 0))[1] == number for one in self.readers for symbol, number in sent
        )

    async def _all_stored(self) -> bool:
        done = await self.counter("records_stored_total") + await self.counter("journal_refused_total")
        return done >= sum(self.venue.numbers.values()) and await trio.to_thread.run_sync(self._all_named)

    def _all_named(self) -> bool:
        """Return whether what the journal refused is in the ledger; no further record is needed for it."""
        ((named,),) = self.database.query(
            "select coalesce(sum(size), 0) from gaps where cause = 'journal_full'"
        )
        ((stored,),) = self.database.query("select count(*) from trades")
        return bool(stored + named >= sum(self.venue.numbers.values()))

    async def counter(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = (await self.daemon.get("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"mdserver_{name}"))

    def check(self) -> None:
        """Compare the venue's log with the database. Blocking."""
        rows = self.database.query(
            "select s.symbol, count(*), count(distinct t.trade_id), max(t.trade_id::bigint), "
            "min(t.seq - t.trade_id::bigint), max(t.seq - t.trade_id::bigint) "
            "from trades t join series s on s.id = t.series_id group by s.symbol"
        )
        gaps = self.database.query(
            "select s.symbol, g.cause, g.size from gaps g join series s on s.id = g.series_id"
        )
        for reader in self.readers:
            self.wrong += reader.wrong[:5]
        named = dict.fromkeys(SYMBOLS, 0)
        for symbol, cause, size in gaps:
            if cause == "journal_full":
                named[symbol] += size
            else:
                self.wrong.append(f"{symbol}: a gap, {cause}")
        stored = dict.fromkeys(SYMBOLS, (0, 0, 0, 0, 0)) | {row[0]: row[1:] for row in rows}
        for symbol, (count, distinct, highest, *offsets) in stored.items():
            sent, offset = self.venue.numbers[symbol], self.readers[0].offsets.get(symbol)
            if count + named[symbol] != sent or distinct != count or (highest != sent and not named[symbol]):
                self.wrong.append(
                    f"{symbol}: of {sent} records {count} are stored ({distinct} different, the highest {highest}) and "
                    f"{named[symbol]} are in a gap"
                )
            if offsets != [offset] * 2:
                self.wrong.append(f"{symbol}: stored with other numbers than sent: {offsets}, {offset}")
        self.sent = sum(self.venue.numbers.values())
        self.stored = sum(row[0] for row in stored.values())
        self.named = sum(named.values())


# -- the ways to go away ---------------------------------------------------------------------------


@asynccontextmanager
async def stopped(database: Database) -> AsyncIterator[None]:
    """Stop it in immediate mode, then start it."""
    await database.stop()
    yield
    await database.start()


@asynccontextmanager
async def still(database: Database) -> AsyncIterator[None]:
    """Freeze all of its processes."""
    with frozen(database.place.folder.parent):
        yield


@asynccontextmanager
async def refused(database: Database) -> AsyncIterator[None]:
    """Close its port."""
    database.refuse()
    yield
    await database.accept()


WAYS: dict[str, Callable[[Database], AbstractAsyncContextManager[None]]] = {
    "stopped": stopped,
    "frozen": still,
    "refused": refused,
    "disk full": refused,
}


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Mount a small file system in memory there."""
    folder.mkdir()
    options = f"size={size_bytes // 1024}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@asynccontextmanager
async def _running(
    folder: Path, way: str, *, rate: float, seconds: float, clients: int
) -> AsyncIterator[Run]:
    """Run everything for one way; the venue is silent."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(folder / "database"))
        if way == "disk full":  # full after half of the outage
            size = int(seconds * 0.25 * rate * JOURNAL_BYTES_A_RECORD)
            stack.enter_context(small_disk(folder / "data", size))
        venue = NumberedVenue(rate)
        venue.stopped = True
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(venue.run)
        broker = {"name": "numbered", "port": venue.port, "symbols": list(SYMBOLS)}
        url = f"postgresql://mdserver@127.0.0.1:{database.port}/mdserver?sslmode=disable"
        config = write_config(folder, database={"url": url}, brokers=[broker], server=SERVER)
        daemon = await stack.enter_async_context(open_daemon(config))
        run = Run(database, daemon, venue)
        for number in range(clients):
            reader = Reader(f"client {number}", lambda: run.phase)
            run.readers.append(reader)
            await nursery.start(reader.run, daemon.ws)
        nursery.start_soon(run.watch)
        nursery.start_soon(run.watch_itself)
        try:
            yield run
        finally:
            nursery.cancel_scope.cancel()


async def run_outage(
    folder: Path, way: str, *, rate: float, seconds: float, clients: int, warm_up_s: float = 0.0
) -> Run:
    """Stream for some seconds, half of them without the database; return what came of it.

    The venue's plugin must be on PYTHONPATH: see :func:`.crash_run.lay_out_plugin`. The account of the database must be
    able to enter ``folder``. ``wrong`` is empty, or the promise is broken.
    """
    async with _running(folder, way, rate=rate, seconds=seconds, clients=clients) as run:
        await trio.sleep(warm_up_s)
        run.own_stall_ms.clear()
        run.venue.stopped = False
        await trio.sleep(seconds / 6)
        run.phase = "away"
        async with WAYS[way](run.database):
            await trio.sleep(seconds / 2)
            run.phase = "back"
        await trio.sleep(seconds / 3)
        run.phase = "end"
        run.venue.stopped = True
        await run.settle()
        run.refused = int(await run.counter("journal_refused_total"))
        await trio.to_thread.run_sync(run.check)
    return run
