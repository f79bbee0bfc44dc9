"""A server that streams and stores, in this process: real sockets, journal and database, and a scripted broker."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from mdserver.daemon.past_of_store import PastOfStore
from mdserver.journal.journal import open_journal
from mdserver.metrics import Metrics
from mdserver.model import Feed, Tick, Trade
from mdserver.net import open_websocket
from mdserver.store.connection.database import Database
from mdserver.store.live.journal_drain import JournalDrain
from mdserver.store.store import Store
from mdserver.stream.publish import Publisher
from mdserver.stream.router import Router
from tests.component.conftest import StreamServer, open_stream_server

T0_S = 1_780_000_000
T0_US = T0_S * 1_000_000


@attrs.define
class StoringServer:
    """A running server; ``drain`` brings what is published into the database."""

    stream: StreamServer
    drain: JournalDrain
    sent: dict[tuple[str, str], int] = attrs.field(factory=dict)

    def publish(self, count: int, symbol: str = "EURUSD", kind: str = "tick", *, batch: int = 50) -> None:
        """Publish the next records of a topic: number n has the time T0 + n ms and the price 1 + n / 1e6."""
        first = self.sent.get((symbol, kind), 0) + 1
        if first == 1:
            feed = Feed(symbol, kind)
            self.stream.supervisor.brokers["one"].demand.hold(feed)
            host = self.stream.brokers["one"].host
            assert host is not None
            host.confirm([feed])
        self.sent[symbol, kind] = first + count - 1
        records = [record(symbol, kind, seq) for seq in range(first, first + count)]
        for at in range(0, count, batch):
            self.stream.brokers["one"].publish(*records[at : at + batch])

    async def publish_on(self, rate: float, symbol: str = "EURUSD", kind: str = "tick") -> None:
        """Publish for ever, ``rate`` records/s."""
        began, done = trio.current_time(), 0
        while True:
            due = int((trio.current_time() - began) * rate) - done
            self.publish(due, symbol, kind)
            done += due
            await trio.sleep(0.003)


def record(symbol: str, kind: str, seq: int) -> Tick | Trade:
    """Return what :meth:`StoringServer.publish` makes."""
    time_us, price = T0_US + seq * 1_000, 1 + seq / 1_000_000
    return Tick(symbol, time_us, price, price) if kind == "tick" else Trade(symbol, time_us, price, 1.0)


@asynccontextmanager
async def open_storing_server(
    database: Database, folder: Path, *, flush_s: float = 60.0, **server: Any
) -> AsyncIterator[StoringServer]:
    """Run a server; records are stored after a minute, or when a replay wants them."""
    drains: list[JournalDrain] = []
    with open_journal(folder / "journal", max_bytes=1 << 28) as journal:

        def storing(router: Router, metrics: Metrics) -> tuple[Publisher, PastOfStore]:
            store = Store(database)
            log = structlog.get_logger()
            drain = JournalDrain(journal, store, flush_s=flush_s, flush_rows=10_000, metrics=metrics, log=log)
            drains.append(drain)
            return Publisher(journal, router.publish, metrics), PastOfStore(store, drain)

        async with trio.open_nursery() as nursery, open_stream_server(storing=storing, **server) as stream:
            await nursery.start(drains[0].run)
            try:
                yield StoringServer(stream, drains[0])
            finally:
                nursery.cancel_scope.cancel()


class Client:
    """A client that reads many records quickly."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self._read: deque[str] = deque()

    async def get(self) -> Any:
        """Return the next message."""
        with trio.fail_after(60):
            while not self._read:
                self._read.extend(await self.ws.receive())
        return json.loads(self._read.popleft())

    async def ask(self, message: dict[str, Any]) -> Any:
        """Send a request, and return the next message that is no record."""
        await self.ws.send(json.dumps(message))
        return await self.get()

    async def subscribe(self, *symbols: str, **fields: Any) -> Any:
        """Subscribe; return the next message."""
        return await self.ask({"action": "subscribe", "symbols": list(symbols), **fields})


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Client]:
    """Connect, and read the first message."""
    async with open_websocket(url) as ws:
        client = Client(ws)
        assert (await client.get())["type"] == "status"
        yield client


async def seqs_until(client: Client, last: int) -> tuple[list[int], list[dict[str, Any]]]:
    """Read until the record with this number; return the numbers and all that is no record."""
    seqs: list[int] = []
    others = []
    while not seqs or seqs[-1] < last:
        message = await client.get()
        if "seq" in message:
            seqs.append(message["seq"])
        else:
            others.append(message)
    return seqs, others
